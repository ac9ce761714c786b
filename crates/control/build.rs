//! Generates the server side of the link, and for the tests the other side; its messages are `model::link`'s.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../model/proto/link.proto");
    let files = protox::compile(["link.proto"], ["../model/proto"])?;
    tonic_prost_build::configure()
        .client_mod_attribute("warmfront.link.v1", "#[cfg(test)]")
        .extern_path(".warmfront.link.v1", "::model::link")
        .compile_fds(files)?;
    Ok(())
}
