//! x
pub fn check(_profile: &str, _quota: &std::collections::BTreeMap<String, u64>) -> Result<(), (&'static str, String)> { Ok(()) }
