//! Entry points of fuzz targets to the control plane's internals: readers of what its users and members send.
//!
//! Compiled only for tests and with the feature `fuzzing`, which only the fuzz targets enable.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::DomainName;
use model::receipt::Receipt;

use crate::certificate;
use crate::receipt::{self, Signer};

/// Checks a certificate in DER and a key in PEM for `domain`: whatever can be served must have facts.
pub fn certificate(domain: &DomainName, der: &[u8], key: &str) {
    let chain = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    for chain in [chain.as_str(), key] {
        if certificate::check(domain, chain, key, now).is_ok() {
            assert!(certificate::facts(chain).is_some());
        }
    }
}

/// Reads a receipt's file and, as if it had been signed, its payload: what is written must read back the same.
pub fn receipt(bytes: &[u8]) {
    let signer = Signer::of_seed("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("32 bytes are a seed");
    if let Ok(file) = std::str::from_utf8(bytes) {
        assert!(receipt::verify(file, signer.public()).is_err(), "nobody guesses a signature");
        let _ = receipt::PublicKey::parse(file);
    }
    let Some(receipt) = Receipt::decode(bytes) else { return };
    assert_eq!(Receipt::decode(&receipt.encode()), Some(receipt.clone()));
    let good = receipt.check().is_ok();
    if let Ok(proved) = receipt::verify(&signer.sign(&receipt), signer.public()) {
        assert!(good && proved == receipt);
    }
}
