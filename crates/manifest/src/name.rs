//! Names of plugins and of protobuf services.

/// Fewest characters of a plugin's name.
const PLUGIN_CHARS_MIN: usize = 2;
/// Most characters of a plugin's name: it fits a DNS label, a Kubernetes name and a folder's name.
const PLUGIN_CHARS_MAX: usize = 63;
/// Most characters of a service's full name.
const SERVICE_CHARS_MAX: usize = 255;

/// Why a name is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not {what}: {why}")]
pub struct NameError {
    name: String,
    what: &'static str,
    why: String,
    hint: Option<String>,
}

impl NameError {
    /// What to do about it, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Accepts `^[a-z][a-z0-9-]{1,62}$`. Such a name is also a safe file name: it has no dot, no separator and no upper case.
///
/// # Errors
/// The first thing that is wrong with it, and a name that would do.
pub fn check_plugin_name(name: &str) -> Result<(), NameError> {
    let length = name.chars().count();
    let why = if length < PLUGIN_CHARS_MIN {
        format!("it has {length} characters, and the fewest are {PLUGIN_CHARS_MIN}")
    } else if length > PLUGIN_CHARS_MAX {
        format!("it has {length} characters, and the most are {PLUGIN_CHARS_MAX}")
    } else if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        format!("`{}` is not one of a-z, 0-9 and `-`", bad.escape_default())
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        "it does not begin with a letter".to_owned()
    } else {
        return Ok(());
    };
    let hint = plugin_name_like(name).map(|near| format!("`{near}` would do"));
    Err(NameError {
        name: clip(name),
        what: "a plugin's name",
        why,
        hint,
    })
}

/// Accepts the full name of a protobuf service: `package.Service`, at least one package part.
///
/// # Errors
/// What is wrong with it.
pub fn check_service_name(name: &str) -> Result<(), NameError> {
    let fault = |why: String, hint: Option<String>| NameError {
        name: clip(name),
        what: "a service's full name",
        why,
        hint,
    };
    if name.len() > SERVICE_CHARS_MAX {
        return Err(fault(
            format!(
                "it has {} characters, and the most are {SERVICE_CHARS_MAX}",
                name.len()
            ),
            None,
        ));
    }
    if name.contains('/') {
        let service = name.split('/').next().unwrap_or_default();
        let hint = check_service_name(service)
            .is_ok()
            .then(|| format!("name the service, `{service}`, without a method"));
        return Err(fault("`/` separates a method from its service".to_owned(), hint));
    }
    if let Some(part) = name.split('.').find(|part| !is_identifier(part)) {
        return Err(fault(
            format!("the part `{}` is not an identifier", clip(part)),
            None,
        ));
    }
    if !name.contains('.') {
        let hint = Some("write it with its package, such as `acme.image.v1.Thumbnailer`".to_owned());
        return Err(fault("it has no package".to_owned(), hint));
    }
    Ok(())
}

fn is_identifier(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A valid name made of `name`'s letters, if enough of them are left.
fn plugin_name_like(name: &str) -> Option<String> {
    let mapped: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| {
            if matches!(c, 'a'..='z' | '0'..='9') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let start = mapped.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let near: String = start.chars().take(PLUGIN_CHARS_MAX).collect();
    let near = near.trim_end_matches('-');
    (near.chars().filter(char::is_ascii_alphanumeric).count() >= PLUGIN_CHARS_MIN).then(|| near.to_owned())
}

/// Long or strange text from a file, made fit for one line of an error.
pub(crate) fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let shown: String = text
        .chars()
        .take(CHARS_MAX)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if text.chars().count() > CHARS_MAX {
        format!("{shown}…")
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_names() {
        let longest = "a".repeat(63);
        for good in ["ab", "thumbnailer", "a-1", "a--", longest.as_str()] {
            assert_eq!(check_plugin_name(good), Ok(()), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "a",
            "1a",
            "-a",
            "A1",
            "a_b",
            "a/b",
            "..",
            "a.b",
            "ä1",
            too_long.as_str(),
        ] {
            assert!(check_plugin_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_plugin_name_comes_with_a_good_one() {
        let error = check_plugin_name("My_Plugin").expect_err("upper case");
        assert_eq!(
            error.to_string(),
            "`My_Plugin` is not a plugin's name: `M` is not one of a-z, 0-9 and `-`"
        );
        assert_eq!(error.hint(), Some("`my-plugin` would do"));
        assert_eq!(check_plugin_name("!").expect_err("sign").hint(), None);
    }

    #[test]
    fn service_names() {
        for good in ["a.B", "acme.image.v1.Thumbnailer", "_a._B1"] {
            assert_eq!(check_service_name(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "a..B", ".a.B", "a.B/C", "a.1B", "a b.C"] {
            assert!(check_service_name(bad).is_err(), "{bad}");
        }
    }
}
