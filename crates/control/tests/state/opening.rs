//! Opening: who may read what is made, and what is said when nothing can be.

use std::os::unix::fs::PermissionsExt;

use control::StateUrl;
use control::state::State;
use tempfile::TempDir;

fn sqlite(dir: &TempDir, name: &str) -> StateUrl {
    StateUrl::parse(&format!("sqlite:{}", dir.path().join(name).display())).unwrap()
}

/// The error and what led to it, as an operator reads it.
async fn refusal(url: &StateUrl) -> String {
    let error = State::open(url).await.err().expect("it cannot be opened");
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[tokio::test]
async fn database_is_its_owners_alone() {
    let dir = TempDir::new().unwrap();
    // Characters that would mean something in a URL.
    let state = State::open(&sqlite(&dir, "new/100%25 c?.db")).await.unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(dir.path().join("new")).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["100%25 c?.db", "100%25 c?.db-shm", "100%25 c?.db-wal"]);
    state.close().await;
}

#[tokio::test]
async fn server_that_is_not_there_is_named_with_the_reason_and_without_the_password() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = StateUrl::parse(&format!("postgres://me:hunter2@127.0.0.1:{port}/front")).unwrap();
    let said = refusal(&url).await;
    assert!(said.contains(&format!("`front` at 127.0.0.1:{port}")) && said.contains("refused"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn file_that_cannot_be_a_database_is_named_with_the_reason() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("text"), "something else, and long enough to be looked at\n".repeat(20)).unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    let cases = [
        // path  the file that is named  why
        ("text", "text", "not a database"),
        ("text/c.db", "text", "File exists"),
        ("folder", "folder", "unable to open"),
    ];
    for (path, named, why) in cases {
        let said = refusal(&sqlite(&dir, path)).await;
        assert!(said.contains(&format!("{named}`")) && said.contains(why), "{path}: {said}");
    }
}
