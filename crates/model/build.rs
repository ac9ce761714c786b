//! Generates the link's messages with a compiler written in Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/link.proto");
    let files = protox::compile(["link.proto"], ["proto"])?;
    // Entries are held once and sent to thousands of nodes: shared, not copied for each.
    // What holds secrets is shown without them (src/link.rs).
    let secret = [".warmfront.link.v1.Hello", ".warmfront.link.v1.Welcome"];
    prost_build::Config::new().skip_debug(secret).bytes([".warmfront.link.v1.Entries"]).compile_fds(files)?;
    Ok(())
}
