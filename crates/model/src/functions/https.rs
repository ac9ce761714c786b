//! How users connect: with or without TLS, which TLS versions, and which HTTP versions.

use super::args::{Args, BadArgument};

/// How users connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Https {
    /// Whether HTTP/2 is offered over TLS.
    pub http2: bool,
    /// Whether TLS 1.2 is offered.
    pub tls12: bool,
    /// Whether TLS 1.3 is offered.
    pub tls13: bool,
    /// The redirect for users that connect by the other scheme.
    pub forced: Option<Forced>,
}

/// A scheme that all users must use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced {
    /// Whether that is https.
    pub https: bool,
    /// The status of the redirect: 301 or 308.
    pub status: u16,
}

impl Default for Https {
    fn default() -> Https {
        Https { http2: true, tls12: true, tls13: true, forced: None }
    }
}

impl Https {
    /// Reads one of the functions that configure it.
    pub(super) fn take(&mut self, name: &str, args: &Args<'_>) -> Result<(), BadArgument> {
        let on = |name: &'static str| if args.get(name).is_none() { Ok(true) } else { args.on(name) };
        match name {
            "https_option" => {
                args.switch("ocsp_stapling")?;
                self.http2 = on("http2")?;
            }
            "https_tls_version" => {
                for version in ["tls10", "tls11"] {
                    args.switch(version)?;
                }
                (self.tls12, self.tls13) = (on("tls12")?, on("tls13")?);
                if !self.tls12 && !self.tls13 {
                    let expected = "on, or tls13 on: older versions are not spoken";
                    return Err(BadArgument::Value { name: "tls12", expected });
                }
            }
            _ => {
                let status = match args.get("https_rewrite") {
                    None | Some("301") => 301,
                    Some("308") => 308,
                    Some(_) => return Err(BadArgument::Value { name: "https_rewrite", expected: "301 or 308" }),
                };
                let forced = Forced { https: name == "https_force", status };
                self.forced = args.on("enable")?.then_some(forced);
            }
        }
        Ok(())
    }
}
