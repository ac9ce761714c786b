//! The certificate authority of a scenario.

use std::path::PathBuf;

/// An authority trusted only by those configured to.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// The folder with all its files.
    pub folder: PathBuf,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Pair {
    /// The file with it, in PEM.
    pub cert: String,
    /// The file with its key, in PEM.
    pub key: String,
    /// The key as it appears in files in the clear.
    pub secret: Vec<u8>,
}

impl Authority {
    /// An authority whose certificate is `folder/ca.pem`.
    pub fn new(folder: PathBuf) -> anyhow::Result<Authority> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new([])?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        std::fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Authority { issuer: rcgen::Issuer::new(params, key), folder })
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Makes a certificate called `name` for `host`, as `NAME.crt` and `NAME.key`.
    pub fn make(&self, name: &str, host: &str) -> anyhow::Result<Pair> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new([host.to_owned()])?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.issuer)?;
        let path = |end: &str| self.folder.join(format!("{name}.{end}"));
        std::fs::write(path("crt"), cert.pem())?;
        std::fs::write(path("key"), key.serialize_pem())?;
        let text = |path: PathBuf| path.display().to_string();
        Ok(Pair { cert: text(path("crt")), key: text(path("key")), secret: key.serialize_der() })
    }
}
