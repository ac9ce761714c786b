//! Generates the client side of the link; its messages are `model::link`'s.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../model/proto/link.proto");
    let files = protox::compile(["link.proto"], ["../model/proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".warmfront.link.v1", "::model::link")
        .compile_fds(files)?;
    Ok(())
}
