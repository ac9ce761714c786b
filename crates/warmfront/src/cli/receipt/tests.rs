//! Checking receipt files, valid and invalid.

use super::*;
use crate::output::Output;

/// Signed by the control plane's own code with the key below, which is nobody's secret.
const GOOD: &str = include_str!("../../../../control/src/receipt/v1.json");
const KEY: &str = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
const OTHER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn verified(content: &[u8], key: Option<&str>, output: Output) -> Result<String, Stop> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let args = VerifyArgs { file: file.path().to_owned(), key: key.map(str::to_owned) };
    let mut out = Vec::new();
    check(&args, output, &mut out).map(|()| String::from_utf8(out).unwrap())
}

#[test]
fn good_receipt_says_who_and_what_and_when() {
    let shown = verified(GOOD.as_bytes(), Some(KEY), Output::Table).unwrap();
    for part in
        ["good ", "task       1 (file) of account me", "http://a.com/x", "revision 9", "cn-1-l1", "acknowledgement"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let shown: Value = serde_json::from_str(&verified(GOOD.as_bytes(), Some(KEY), Output::Json).unwrap()).unwrap();
    assert_eq!((&shown["good"], &shown["completed"]), (&json!(true), &json!("1970-01-01T00:00:00.002Z")));
    assert_eq!(shown["steps"][0]["members"][0]["swept_bytes"], 30);
}

#[test]
fn key_may_lie_in_a_file_and_must_be_the_right_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
    assert!(verified(GOOD.as_bytes(), Some(file.path().to_str().unwrap()), Output::Table).is_ok());
    assert!(matches!(verified(GOOD.as_bytes(), Some(OTHER_KEY), Output::Table), Err(Stop::Failed(_))));
    assert!(matches!(verified(GOOD.as_bytes(), Some("no-such-file"), Output::Table), Err(Stop::Usage(_))));
    std::fs::write(file.path(), "not a key").unwrap();
    let wrong = verified(GOOD.as_bytes(), Some(file.path().to_str().unwrap()), Output::Table);
    assert!(matches!(wrong, Err(Stop::Usage(problem)) if problem.contains("base64")));
}

#[test]
fn without_a_key_nothing_is_believed_and_the_claimed_one_is_named() {
    let fingerprint = PublicKey::parse(KEY).unwrap().fingerprint();
    let refused = verified(GOOD.as_bytes(), None, Output::Table);
    assert!(matches!(refused, Err(Stop::Usage(problem)) if problem.contains(&fingerprint)));
}

#[test]
fn every_byte_counts() {
    for at in 0..GOOD.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut changed = GOOD.as_bytes().to_vec();
            changed[at] ^= flip;
            assert!(verified(&changed, Some(KEY), Output::Table).is_err(), "byte {at} ^ {flip:#x}");
        }
    }
    for other in ["", "{}", "null", "\u{0}", &GOOD[..GOOD.len() / 2], &format!("{GOOD}\n")] {
        assert!(verified(other.as_bytes(), Some(KEY), Output::Table).is_err(), "{other:?}");
    }
}
