//! Generates the client side of the link, for the simulated members; the messages are `model::link`'s.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../crates/model/proto/link.proto");
    let files = protox::compile(["link.proto"], ["../crates/model/proto"])?;
    tonic_prost_build::configure()
        .extern_path(".warmfront.link.v1", "::model::link")
        .build_server(false)
        .compile_fds(files)?;
    Ok(())
}
