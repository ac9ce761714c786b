//! Certificates for a domain, in DER, followed by a key in PEM.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use model::DomainName;

static DOMAIN: LazyLock<DomainName> = LazyLock::new(|| DomainName::parse("www.a.com").expect("a name"));
static WILDCARD: LazyLock<DomainName> = LazyLock::new(|| DomainName::parse(".a.com").expect("a name"));

fuzz_target!(|bytes: &[u8]| {
    let marker = b"-----BEGIN";
    let at = bytes.windows(marker.len()).position(|window| window == marker);
    let (der, key) = bytes.split_at(at.unwrap_or(bytes.len()));
    let key = std::str::from_utf8(key).unwrap_or_default();
    for domain in [&*DOMAIN, &*WILDCARD] {
        control::fuzzing::certificate(domain, der, key);
    }
});
