//! Which version of an application's protocol host and plugin agree on.
//!
//! The host lists its versions in any order; the plugin takes its own highest that the host lists. With none in common it answers its lowest, and
//! leaves it to the host to refuse: that way the host's message can name both sides.

/// The variable's separator.
const SEPARATOR: char = ',';
/// A host's list is read so far: longer ones are no list of versions.
const VERSIONS_MAX: usize = 1024;

/// The host's list, as it stands in `PLUGIN_PROTOCOL_VERSIONS`.
#[must_use]
pub fn print_list(versions: &[u32]) -> String {
    let mut list = String::new();
    for version in versions {
        if !list.is_empty() {
            list.push(SEPARATOR);
        }
        list.push_str(&version.to_string());
    }
    list
}

/// Reads a host's list. What is no number is passed over, as a Go plugin does.
#[must_use]
pub fn parse_list(list: &str) -> Vec<u32> {
    list.split(SEPARATOR)
        .take(VERSIONS_MAX)
        .filter_map(|version| version.trim().parse().ok())
        .collect()
}

/// The plugin's choice: its highest version that the host lists, else its lowest. `None` only if the plugin has none.
#[must_use]
pub fn choose(own: &[u32], host: &[u32]) -> Option<u32> {
    let common = own.iter().copied().filter(|version| host.contains(version)).max();
    common.or_else(|| own.iter().copied().min())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_wins_whatever_the_order() {
        assert_eq!(choose(&[1, 3, 2], &[2, 1]), Some(2));
        assert_eq!(choose(&[1, 2, 3], &[3, 1, 2]), Some(3));
        assert_eq!(choose(&[5], &[5]), Some(5));
    }

    #[test]
    fn without_a_common_version_the_lowest_is_answered() {
        assert_eq!(choose(&[3, 1, 2], &[9]), Some(1));
        // A host of the time before negotiation sends no list.
        assert_eq!(choose(&[3, 2], &[]), Some(2));
        assert_eq!(choose(&[], &[1]), None);
    }

    #[test]
    fn lists_survive_their_text_and_junk_in_them_is_passed_over() {
        assert_eq!(parse_list(&print_list(&[3, 1, 2])), [3, 1, 2]);
        assert_eq!(parse_list("1, x,,-2,4294967296,7"), [1, 7]);
        assert_eq!(parse_list(""), [0_u32; 0]);
        assert_eq!(parse_list(&"1,".repeat(5000)).len(), VERSIONS_MAX);
    }
}
