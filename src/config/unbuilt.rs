//! What the contract promises and this version doesn't have: refused, never ignored.
//!
//! Whoever builds something deletes its line.

use super::ConfigError;
use super::options::Layers;

/// Options, spelled as in [`Layers`], with the values that don't work; none named means any.
const OPTIONS: &[(&str, &[&str])] = &[("pid", &[])];

/// Fails if something is asked for that isn't built.
pub(super) fn check(layers: &Layers) -> Result<(), ConfigError> {
    for (option, value, source) in layers.given() {
        let row = OPTIONS.iter().find(|(name, _)| *name == option);
        let refused = row.filter(|(_, values)| values.is_empty() || values.contains(&value.as_str()));
        if let Some((_, values)) = refused {
            let value = values.iter().find(|refused| **refused == value);
            let what = spelled(option, value.copied());
            return Err(ConfigError(format!("{what} ({source}) is not built yet")));
        }
    }
    Ok(())
}

/// `--on-leak redirect`, `--isolate`
fn spelled(option: &str, value: Option<&str>) -> String {
    let option = option.replace('_', "-");
    match value {
        None | Some("true") => format!("--{option}"),
        Some(value) => format!("--{option} {value}"),
    }
}

/// What isn't built, for the help text.
#[must_use]
pub fn unbuilt() -> String {
    let options = OPTIONS.iter().flat_map(|(option, values)| {
        let whole = values.is_empty().then_some(None);
        whole.into_iter().chain(values.iter().copied().map(Some)).map(|value| spelled(option, value))
    });
    options.collect::<Vec<_>>().join(", ")
}
