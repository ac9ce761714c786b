//! Arguments of a function, read by name. Errors name the argument but never its value, which may be a secret.

use super::Function;

/// What is wrong with an argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadArgument {
    /// The function has no such argument.
    #[error("has no argument {0}")]
    Unknown(String),
    /// Its value is not valid; an absent argument counts as an empty value.
    #[error("{name}: expected {expected}")]
    Value {
        /// Which argument.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

/// The arguments of one function.
pub(super) struct Args<'a>(&'a Function);

impl<'a> Args<'a> {
    pub(super) fn of(function: &'a Function) -> Args<'a> {
        Args(function)
    }

    /// Refuses all arguments that are not among `names`.
    pub(super) fn only(&self, names: &[&str]) -> Result<&Self, BadArgument> {
        match self.0.args.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            Some((name, _)) => Err(BadArgument::Unknown(name.clone())),
            None => Ok(self),
        }
    }

    /// A value without surrounding blanks; `None` if absent or empty.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.0.args.iter().find(|(known, _)| known == name)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    /// A required value.
    pub(super) fn required(&self, name: &'static str, expected: &'static str) -> Result<&'a str, BadArgument> {
        self.get(name).ok_or(BadArgument::Value { name, expected })
    }

    /// A required value that is one of `words`.
    pub(super) fn one_of(
        &self,
        name: &'static str,
        words: &'static [&'static str],
    ) -> Result<&'static str, BadArgument> {
        let found = self.get(name).and_then(|value| words.iter().copied().find(|word| *word == value));
        let expected = match words {
            ["on", "off"] => "on or off",
            ["on", "off", "force"] => "on, off or force",
            ["on", "off", "all"] => "on, off or all",
            ["302", "303", "307"] => "302, 303 or 307",
            ["http", "https", "follow"] => "http, https or follow",
            _ => "one of the words that the reference lists",
        };
        found.ok_or(BadArgument::Value { name, expected })
    }

    /// A required `on` or `off`.
    pub(super) fn on(&self, name: &'static str) -> Result<bool, BadArgument> {
        Ok(self.one_of(name, &["on", "off"])? == "on")
    }

    /// `on` or `off`; off if absent.
    pub(super) fn switch(&self, name: &'static str) -> Result<bool, BadArgument> {
        if self.get(name).is_none() { Ok(false) } else { self.on(name) }
    }

    /// A number within bounds, if present.
    pub(super) fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<Option<u64>, BadArgument> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number) && !text.starts_with('+'));
        number.map(Some).ok_or(BadArgument::Value { name, expected })
    }

    /// The words of a list, split at commas and blanks.
    pub(super) fn words(&self, name: &str) -> Vec<String> {
        let text = self.get(name).unwrap_or_default();
        text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }
}
