//! Generates the client of the link, and its server for the tests; the messages come from `model::link`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../model/proto/link.proto");
    let generate = || tonic_prost_build::configure().extern_path(".warmfront.link.v1", "::model::link");
    let files = protox::compile(["link.proto"], ["../model/proto"])?;
    generate().build_server(false).compile_fds(files.clone())?;
    let server = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("server");
    std::fs::create_dir_all(&server)?;
    generate().build_client(false).out_dir(server).compile_fds(files)?;
    Ok(())
}
