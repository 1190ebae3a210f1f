//! The environment by which a host invites a plugin.
//!
//! | variable | value |
//! |---|---|
//! | the cookie's key | the cookie's value; without it a plugin tells a person that it is none |
//! | `PLUGIN_PROTOCOL_VERSIONS` | the host's versions: `1,2,3` |
//! | `PLUGIN_MIN_PORT`, `PLUGIN_MAX_PORT` | ports for plugins that can't listen on a unix socket |
//! | `PLUGIN_CLIENT_CERT` | the host's certificate, PEM; only with mutual TLS |
//! | `PLUGIN_MULTIPLEX_GRPC` | `true`; only with multiplexing |
//! | `PLUGIN_UNIX_SOCKET_GROUP` | a group, by number or name, that may connect to the plugin's sockets. This host never asks for one: it is root or the plugin's own user |
//! | `PLUGIN_UNIX_SOCKET_DIR`, `TMPDIR` | where sockets belong. Plugins before go-plugin 1.5 obey only the second |
//!
//! The cookie is no secret: it tells a plugin from a program that a person started by mistake.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use crate::{handshake, version};

/// The host's versions.
pub const VERSIONS: &str = "PLUGIN_PROTOCOL_VERSIONS";
/// Lowest port for TCP.
pub const MIN_PORT: &str = "PLUGIN_MIN_PORT";
/// Highest port for TCP.
pub const MAX_PORT: &str = "PLUGIN_MAX_PORT";
/// The host's certificate, PEM.
pub const CLIENT_CERT: &str = "PLUGIN_CLIENT_CERT";
/// Set if the host multiplexes.
pub const MULTIPLEX: &str = "PLUGIN_MULTIPLEX_GRPC";
/// Where a plugin's sockets belong.
pub const SOCKET_DIR: &str = "PLUGIN_UNIX_SOCKET_DIR";
/// Who else may connect to a plugin's sockets.
pub const SOCKET_GROUP: &str = "PLUGIN_UNIX_SOCKET_GROUP";
/// What Go's host sends as ports if it was told none.
const PORTS: (u16, u16) = (10_000, 25_000);

/// The key and value that an application and its plugins share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Name of the variable.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What a host offers a plugin.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The application's cookie.
    pub cookie: Cookie,
    /// The versions of the application's protocol that this host knows; at least one.
    pub versions: Vec<u32>,
    /// This host's certificate, PEM; `None` for no TLS.
    pub certificate_pem: Option<String>,
    /// Whether connections of the broker should share the first one.
    pub multiplex: bool,
    /// The plugin's private directory.
    pub directory: PathBuf,
}

/// What a plugin finds in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The host's versions; empty if it does not negotiate.
    pub versions: Vec<u32>,
    /// The host's certificate, PEM; `None` for no TLS.
    pub certificate_pem: Option<String>,
    /// Whether the host multiplexes; `Some` if it reads a seventh field.
    pub multiplex: Option<bool>,
    /// Where sockets belong.
    pub directory: PathBuf,
    /// A group, by number or name, that may connect to them too.
    pub group: Option<String>,
}

/// The program was not started by a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotInvited;

// === impl Cookie ===

impl Cookie {
    /// Reads `KEY=value`, as it stands on a command line.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (key, value) = text.split_once('=')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.is_empty() || value.is_empty() || !key.chars().all(plain) || value.contains('\0') {
            return None;
        }
        Some(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

// === impl Offer ===

impl Offer {
    /// The variables to start the plugin with. The caller adds its own and nothing of its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let directory = self.directory.as_os_str();
        let mut variables: Vec<(OsString, OsString)> = vec![
            (self.cookie.key.clone().into(), self.cookie.value.clone().into()),
            (VERSIONS.into(), version::print_list(&self.versions).into()),
            (MIN_PORT.into(), PORTS.0.to_string().into()),
            (MAX_PORT.into(), PORTS.1.to_string().into()),
            (SOCKET_DIR.into(), directory.into()),
            ("TMPDIR".into(), directory.into()),
        ];
        if let Some(pem) = &self.certificate_pem {
            variables.push((CLIENT_CERT.into(), pem.into()));
        }
        if self.multiplex {
            variables.push((MULTIPLEX.into(), "true".into()));
        }
        variables
    }
}

// === impl Invitation ===

impl Invitation {
    /// Reads this process's environment.
    ///
    /// # Errors
    /// If the cookie is not there.
    pub fn from_process(cookie: &Cookie) -> Result<Self, NotInvited> {
        Self::read(cookie, |name| std::env::var_os(name))
    }

    /// Reads an environment.
    ///
    /// # Errors
    /// If the cookie is not there.
    pub fn read(cookie: &Cookie, get: impl Fn(&str) -> Option<OsString>) -> Result<Self, NotInvited> {
        // An empty one counts as none, as in Go.
        let text = |name: &str| {
            get(name)
                .and_then(|value| value.into_string().ok())
                .filter(|value| !value.is_empty())
        };
        if text(&cookie.key).as_deref() != Some(&*cookie.value) {
            return Err(NotInvited);
        }
        let path = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(Self {
            versions: text(VERSIONS)
                .map(|list| version::parse_list(&list))
                .unwrap_or_default(),
            certificate_pem: text(CLIENT_CERT),
            // Whatever stands there, the host knows the field; it multiplexes only if it says so.
            multiplex: text(MULTIPLEX).map(|it| handshake::boolean(&it).is_ok_and(|it| it)),
            directory: path(SOCKET_DIR)
                .or_else(|| path("TMPDIR"))
                .unwrap_or_else(|| Path::new("/tmp").to_owned()),
            group: text(SOCKET_GROUP),
        })
    }
}

impl fmt::Display for NotInvited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this program is a plugin; a host starts it, and it does nothing by itself")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            cookie: Cookie::parse("BASIC_PLUGIN=hello").unwrap(),
            versions: vec![1, 2],
            certificate_pem: None,
            multiplex: false,
            directory: "/run/x/7".into(),
        }
    }

    fn read_back(offer: &Offer) -> Invitation {
        let environment = offer.environment();
        Invitation::read(&offer.cookie, |name| {
            environment
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        })
        .unwrap()
    }

    #[test]
    fn a_plugin_reads_what_a_host_offers() {
        let plain = read_back(&offer());
        assert_eq!(plain.versions, [1, 2]);
        assert_eq!(plain.directory, Path::new("/run/x/7"));
        assert_eq!(
            (plain.certificate_pem, plain.multiplex, plain.group),
            (None, None, None)
        );
        let all = read_back(&Offer {
            certificate_pem: Some("-----BEGIN\n".to_owned()),
            multiplex: true,
            ..offer()
        });
        assert_eq!(all.certificate_pem.as_deref(), Some("-----BEGIN\n"));
        assert_eq!(all.multiplex, Some(true));
    }

    #[test]
    fn a_host_that_mentions_multiplexing_does_not_ask_for_it_yet() {
        let cookie = Cookie::parse("BASIC_PLUGIN=hello").unwrap();
        for (said, multiplex) in [
            ("", None),
            ("1", Some(true)),
            ("T", Some(true)),
            ("false", Some(false)),
            ("maybe", Some(false)),
        ] {
            let invitation = Invitation::read(&cookie, |name| match name {
                "BASIC_PLUGIN" => Some("hello".into()),
                MULTIPLEX => Some(said.into()),
                _ => None,
            });
            assert_eq!(invitation.unwrap().multiplex, multiplex, "{said}");
        }
    }

    #[test]
    fn both_variables_for_sockets_name_the_private_directory() {
        let environment = offer().environment();
        for name in [SOCKET_DIR, "TMPDIR"] {
            assert!(environment.contains(&(name.into(), "/run/x/7".into())), "{name}");
        }
        // A host that does not multiplex must not even mention it: its presence changes the handshake.
        assert!(
            !environment
                .iter()
                .any(|(key, _)| key == MULTIPLEX || key == CLIENT_CERT)
        );
    }

    #[test]
    fn without_the_cookie_nobody_is_invited() {
        let cookie = Cookie::parse("BASIC_PLUGIN=hello").unwrap();
        assert_eq!(Invitation::read(&cookie, |_| None), Err(NotInvited));
        assert_eq!(
            Invitation::read(&cookie, |_| Some("hullo".into())),
            Err(NotInvited)
        );
    }

    #[test]
    fn a_cookie_on_the_command_line_has_two_parts() {
        assert_eq!(Cookie::parse("A=b=c").unwrap().value, "b=c");
        for wrong in ["", "A", "=b", "A=", "A B=c", "A-B=c"] {
            assert_eq!(Cookie::parse(wrong), None, "{wrong}");
        }
    }
}
