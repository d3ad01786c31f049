//! `--capture` and its companions.

use super::options::Layers;
use super::{ConfigError, Source, parsed, refused};
use crate::capture::Wish;
use crate::capture::wish::{Paths, bytes, families};
use crate::operation::Family;

/// What is to be captured, if anything is.
pub(super) fn wish(layers: &Layers) -> Result<Option<Wish>, ConfigError> {
    let given = layers.given();
    let companion = given.iter().find(|(option, ..)| option.starts_with("capture_"));
    let Some(directory) = &layers.capture else {
        return companion.map_or(Ok(None), |(option, value, source): &(&str, String, &Source)| {
            Err(refused(option, value, source, "nothing is captured without --capture DIR"))
        });
    };
    let families = match &layers.capture_family {
        None => Some(vec![Family::UNIX]),
        Some(given) => families(&given.value).map_err(|name| {
            let why = "accepted: all, or a family's name as in events (unix, inet, inet6, netlink, vsock, ...)";
            refused("capture_family", &name, &given.source, why)
        })?,
    };
    let paths = parsed("capture_path", layers.capture_path.as_ref(), Paths::new)?;
    if let (Some(given), Some(families)) = (layers.capture_path.as_ref(), &families)
        && !families.contains(&Family::UNIX)
    {
        let why = "only UNIX sockets have paths, and --capture-family leaves them out";
        return Err(refused("capture_path", &given.value, &given.source, why));
    }
    let number = |text: &str| text.parse::<usize>().map_err(|_| "accepted: a number".to_owned());
    Ok(Some(Wish {
        directory: directory.value.clone(),
        families,
        paths,
        per_event: parsed("capture_max", layers.capture_max.as_ref(), bytes)?.unwrap_or(Wish::PER_EVENT),
        total: parsed("capture_total", layers.capture_total.as_ref(), bytes)?.unwrap_or(Wish::TOTAL),
        descriptors: parsed("capture_max_fds", layers.capture_max_fds.as_ref(), number)?
            .unwrap_or(Wish::DESCRIPTORS),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn load(options: Options) -> Result<Option<Wish>, String> {
        let mut layers = Layers::default();
        layers.put(options, &Source::Flag);
        wish(&layers).map_err(|error| error.to_string())
    }

    #[test]
    fn companions_want_a_directory() {
        let error = load(Options { capture_max: Some("1K".into()), ..Options::default() }).unwrap_err();
        assert!(error.contains("--capture-max") && error.contains("--capture DIR"), "{error}");
        assert!(load(Options::default()).unwrap().is_none());
    }

    #[test]
    fn values_are_checked() {
        let with = |options: Options| load(Options { capture: Some("d".into()), ..options });
        let plain = with(Options::default()).unwrap().unwrap();
        assert!(plain.wants_family(Family::UNIX) && !plain.wants_family(Family::INET));
        let all = with(Options { capture_family: Some(vec!["all".into()]), ..Options::default() });
        assert!(all.unwrap().unwrap().wants_family(Family::NETLINK));
        let max = with(Options { capture_max: Some("2K".into()), ..Options::default() }).unwrap().unwrap();
        assert_eq!((max.per_event, max.total), (2048, Wish::TOTAL));
        for (options, named) in [
            (Options { capture_family: Some(vec!["tcp".into()]), ..Options::default() }, "--capture-family"),
            (Options { capture_max: Some("much".into()), ..Options::default() }, "--capture-max"),
            (Options { capture_total: Some("-1".into()), ..Options::default() }, "--capture-total"),
            (Options { capture_path: Some("[".into()), ..Options::default() }, "--capture-path"),
            (Options { capture_max_fds: Some("x".into()), ..Options::default() }, "--capture-max-fds"),
        ] {
            let error = with(options).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
