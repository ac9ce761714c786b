//! `domain certificate`: the certificate that users of a domain are shown.
//!
//! # What always holds
//!
//! - A private key is read from a file, sent, and never shown.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::Stop;
use super::api::Api;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum CertificateCommand {
    /// Serve a domain by TLS, with this certificate from now on
    Set {
        /// The domain
        domain: String,
        /// The chain in PEM, the domain's own certificate first
        #[arg(long, value_name = "FILE", required_unless_present = "off", requires = "key")]
        cert: Option<PathBuf>,
        /// The private key in PEM
        #[arg(long, value_name = "FILE", requires = "cert")]
        key: Option<PathBuf>,
        /// What to call it
        #[arg(long, value_name = "NAME", requires = "cert")]
        name: Option<String>,
        /// Serve it by TLS no more
        #[arg(long, conflicts_with = "cert")]
        off: bool,
    },
    /// Show a domain's certificate
    Show {
        /// The domain
        domain: String,
    },
}

pub(super) async fn run(
    command: &CertificateCommand,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    let domain = match command {
        CertificateCommand::Set { domain, cert, key, name, off: _ } => {
            match (cert, key) {
                (Some(cert), Some(key)) => {
                    let (cert, key) = (read(cert)?, read(key)?);
                    let mut parameters = vec![
                        ("DomainName", domain.as_str()),
                        ("SSLProtocol", "on"),
                        ("CertType", "upload"),
                        ("SSLPub", &cert),
                        ("SSLPri", &key),
                    ];
                    parameters.extend(name.as_deref().map(|name| ("CertName", name)));
                    api.call("SetCdnDomainSSLCertificate", &parameters).await?;
                }
                _ => {
                    let parameters = [("DomainName", domain.as_str()), ("SSLProtocol", "off")];
                    api.call("SetCdnDomainSSLCertificate", &parameters).await?;
                }
            }
            domain
        }
        CertificateCommand::Show { domain } => domain,
    };
    let reply = api.call("DescribeDomainCertificateInfo", &[("DomainName", domain)]).await?;
    let info = &reply["CertInfos"]["CertInfo"][0];
    let fields = [
        ("domain", &info["DomainName"]),
        ("tls", &info["ServerCertificateStatus"]),
        ("name", &info["CertName"]),
        ("subject", &info["CertDomainName"]),
        ("issuer", &info["CertOrg"]),
        ("good_from", &info["CertStartTime"]),
        ("good_until", &info["CertExpireTime"]),
        ("set", &info["CertUpdateTime"]),
    ];
    match output {
        Output::Json => {
            let mut value = json!({ "chain": info["ServerCertificate"] });
            for (name, field) in fields {
                value[name] = field.clone();
            }
            Ok(writeln!(out, "{value}")?)
        }
        Output::Table => {
            for (name, field) in fields {
                writeln!(out, "{name:10}  {}", field.as_str().unwrap_or_default())?;
            }
            Ok(())
        }
    }
}

fn read(path: &Path) -> Result<String, Stop> {
    std::fs::read_to_string(path).map_err(|error| Stop::usage(format_args!("read `{}`: {error}", path.display())))
}
