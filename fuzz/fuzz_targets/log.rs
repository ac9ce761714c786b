//! The contents of the log and of the link: entries and snapshots as JSON, messages as protobuf. Whatever decodes is
//! encoded to the same again, becomes knowledge, and is found by a node's index.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::link::{FromControl, FromNode};
use model::log::{decode, encode};
use model::{CertificateSecret, Entry, Knowledge, Snapshot, UrlKey, prefetch};
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = decode::<Entry>(bytes) {
        assert_eq!(decode::<Entry>(&encode(&entry)).expect("we wrote it"), entry);
        let mut knowledge = Knowledge::default();
        knowledge.apply(&entry);
        let mut twice = knowledge.clone();
        twice.apply(&entry);
        assert_eq!(twice, knowledge);
        if let Entry::Certificate(certificate) = &entry {
            let _ = certificate.key.open(&CertificateSecret::new([1; 32]), &certificate.domain);
        }
        for path in ["/", "/d/e/7?x=/d/", "/x?y"] {
            node::fuzzing::entry(&entry, &UrlKey::new("a.com", path).expect("a URL"));
        }
    }
    if let Ok(snapshot) = decode::<Snapshot>(bytes) {
        assert_eq!(decode::<Snapshot>(&encode(&snapshot)).expect("we wrote it"), snapshot);
        for host in ["a.com", "x.y.a.com", "", "."] {
            if let Some(domain) = snapshot.knowledge.domain_for(host) {
                assert!(domain.name.serves(host));
                domain.functions.key(&UrlKey::new("a.com", "/x?y").expect("a URL"));
            }
        }
    }
    if let Ok(message) = FromNode::decode(bytes) {
        assert_eq!(FromNode::decode(message.encode_to_vec().as_slice()).as_ref(), Ok(&message));
    }
    if let Ok(message) = FromControl::decode(bytes) {
        assert_eq!(FromControl::decode(message.encode_to_vec().as_slice()).as_ref(), Ok(&message));
    }
    if let Ok(job) = model::link::Job::decode(bytes) {
        let job = prefetch::Job::from(job);
        assert_eq!(prefetch::Job::from(model::link::Job::from(job.clone())), job);
    }
    if let Ok(report) = model::link::Report::decode(bytes)
        && let Ok(report) = prefetch::Report::try_from(report)
    {
        let again = prefetch::Report::try_from(model::link::Report::from(&report));
        assert_eq!(again.expect("we wrote it"), report);
    }
});
