//! `host:port` pairs of `net.connect`, and what they match.
//!
//! | written | reaches |
//! |---|---|
//! | `api.example.com:443` | that name, any case, with or without the final dot |
//! | `*.example.com:443` | every name below `example.com`, at any depth; not `example.com` itself |
//! | `10.0.0.7:80`, `[::1]:80` | that address, however it is spelt; an IPv4-mapped IPv6 address is its IPv4 address |
//! | `*:443` | every *name*; an address must be written out |
//! | `api.example.com:*` | every port of that name |
//!
//! Matching is about what the guest asked for. It does not say where a name resolves to: whoever opens the connection also
//! checks every resolved address, or a name that points into the host's own network would be a way around the grant.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use crate::name::clip;

/// Longest host name, in characters (RFC 1035).
const HOST_CHARS_MAX: usize = 253;

/// A pattern for a host and a port, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: HostPattern,
    /// `None`: every port.
    port: Option<u16>,
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not `host:port`: {why}")]
pub struct EndpointError {
    text: String,
    why: String,
    hint: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    AnyName,
    /// Every name that ends with `.` and this.
    Below(String),
    Name(String),
    Address(IpAddr),
}

/// A host as a guest names it.
enum Host {
    Name(String),
    Address(IpAddr),
}

// === impl Endpoint ===

impl Endpoint {
    /// Whether this reaches `host` (a name or an address, with or without brackets) on `port`.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let Ok(host) = Host::parse(host) else { return false };
        self.port.is_none_or(|own| own == port)
            && match (&self.host, &host) {
                (HostPattern::AnyName, Host::Name(_)) => true,
                (HostPattern::Below(parent), Host::Name(name)) => is_below(name, parent),
                (HostPattern::Name(own), Host::Name(name)) => own == name,
                (HostPattern::Address(own), Host::Address(address)) => own == address,
                _ => false,
            }
    }

    /// Whether this reaches everything that `other` reaches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let port = match (self.port, other.port) {
            (None, _) => true,
            (Some(own), Some(other)) => own == other,
            (Some(_), None) => false,
        };
        port && match (&self.host, &other.host) {
            (HostPattern::AnyName, HostPattern::Address(_)) => false,
            (HostPattern::AnyName, _) => true,
            (HostPattern::Below(own), HostPattern::Below(other)) => own == other || is_below(other, own),
            (HostPattern::Below(own), HostPattern::Name(other)) => is_below(other, own),
            (own, other) => own == other,
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fault = |why: String, hint: &'static str| EndpointError {
            text: clip(text),
            why,
            hint,
        };
        if text.contains("://") {
            return Err(fault(
                "it is a URL".to_owned(),
                "leave out the scheme and the path, as in `api.example.com:443`",
            ));
        }
        let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
            return Err(fault(
                "it has no port".to_owned(),
                "add the port, as in `api.example.com:443`",
            ));
        };
        let port = match port {
            "*" => None,
            digits => match digits.parse::<u16>() {
                Ok(port) if port > 0 && !digits.starts_with('+') => Some(port),
                _ => {
                    let why = format!("`{}` is not a port", clip(digits));
                    return Err(fault(why, "a port is a number from 1 to 65535, or `*`"));
                }
            },
        };
        if host.contains(':') && !host.starts_with('[') {
            let why = "an IPv6 address stands in brackets".to_owned();
            return Err(fault(why, "write it as in `[2001:db8::1]:443`"));
        }
        let host = match host.strip_prefix("*.") {
            _ if host == "*" => HostPattern::AnyName,
            Some(parent) => match Host::parse(parent) {
                Ok(Host::Name(parent)) => HostPattern::Below(parent),
                Ok(Host::Address(_)) => {
                    return Err(fault(
                        "an address has nothing below it".to_owned(),
                        "write the address without `*.`",
                    ));
                }
                Err(why) => return Err(fault(why, HOST_HINT)),
            },
            None => match Host::parse(host) {
                Ok(Host::Name(name)) => HostPattern::Name(name),
                Ok(Host::Address(address)) => HostPattern::Address(address),
                Err(why) => return Err(fault(why, HOST_HINT)),
            },
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::AnyName => f.write_str("*"),
            HostPattern::Below(parent) => write!(f, "*.{parent}"),
            HostPattern::Name(name) => f.write_str(name),
            HostPattern::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            HostPattern::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

// === impl EndpointError ===

impl EndpointError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

// === impl Host ===

const HOST_HINT: &str = "a host is a DNS name (`api.example.com`), `*.` and a name, an IPv4 address, or an IPv6 address in \
                         brackets; write a name outside ASCII in its `xn--` form";

impl Host {
    fn parse(text: &str) -> Result<Self, String> {
        let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(address) = inside {
            return match address.parse::<Ipv6Addr>() {
                Ok(address) => Ok(Self::Address(IpAddr::V6(address).to_canonical())),
                Err(_) => Err(format!("`{}` is not an IPv6 address", clip(address))),
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err("it has no host".to_owned());
        }
        if name.len() > HOST_CHARS_MAX {
            return Err(format!(
                "the host has {} characters, and the most are {HOST_CHARS_MAX}",
                name.len()
            ));
        }
        if let Some(label) = name.split('.').find(|label| !is_label(label)) {
            return Err(format!("`{}` is not a part of a DNS name", clip(label)));
        }
        // Resolvers read `127.1`, `0x7f.1` and `2130706433` as addresses. A pattern for names must not reach those.
        let last = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let hex = last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!(
                "`{}` is neither a name nor an IPv4 address in its usual form",
                clip(name)
            ));
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

/// Letters, digits, `-` and (seen in practice) `_`; at most 63.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn matches() {
        for (pattern, host, port, expected) in [
            ("api.example.com:443", "api.example.com", 443, true),
            ("api.example.com:443", "API.Example.COM.", 443, true),
            ("API.example.com:443", "api.example.com", 443, true),
            ("api.example.com:443", "api.example.com", 80, false),
            ("api.example.com:443", "xapi.example.com", 443, false),
            ("api.example.com:443", "api.example.com.evil.org", 443, false),
            ("*.example.com:443", "a.example.com", 443, true),
            ("*.example.com:443", "a.b.Example.com", 443, true),
            ("*.example.com:443", "example.com", 443, false),
            ("*.example.com:443", ".example.com", 443, false),
            ("*.example.com:443", "evilexample.com", 443, false),
            ("*:443", "anything.org", 443, true),
            ("*:443", "169.254.169.254", 443, false),
            ("*:443", "2852039166", 443, false),
            ("*:443", "0xa9fea9fe", 443, false),
            ("*:443", "169.254.43518", 443, false),
            ("a.org:*", "a.org", 9, true),
            ("127.0.0.1:80", "127.0.0.1", 80, true),
            ("127.0.0.1:80", "127.1", 80, false),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]", 80, true),
            ("[::1]:80", "::1", 80, true),
            ("[::1]:80", "[0:0:0:0:0:0:0:1]", 80, true),
            ("[::1]:80", "[::2]", 80, false),
            ("a.org:80", "a.org\0.evil", 80, false),
            ("a.org:80", "", 80, false),
        ] {
            assert_eq!(
                endpoint(pattern).matches(host, port),
                expected,
                "{pattern} against {host} {port}"
            );
        }
    }

    #[test]
    fn covers() {
        for (wide, narrow, expected) in [
            ("*.a.org:443", "*.a.org:443", true),
            ("*.a.org:443", "x.a.org:443", true),
            ("*.a.org:443", "*.x.a.org:443", true),
            ("*.a.org:443", "a.org:443", false),
            ("*.x.a.org:443", "*.a.org:443", false),
            ("x.a.org:443", "*.a.org:443", false),
            ("*:443", "*.a.org:443", true),
            ("*:443", "127.0.0.1:443", false),
            ("a.org:*", "a.org:1", true),
            ("a.org:1", "a.org:*", false),
            ("[::1]:1", "[0::1]:1", true),
        ] {
            assert_eq!(
                endpoint(wide).covers(&endpoint(narrow)),
                expected,
                "{wide} over {narrow}"
            );
        }
    }

    #[test]
    fn refuses_what_is_not_an_endpoint() {
        let faults: Vec<String> = [
            "",
            "a.org",
            "a.org:",
            "a.org:0",
            "a.org:65536",
            "a.org:+1",
            ":80",
            "https://a.org/x",
            "::1:80",
            "[::1]",
            "[zz]:1",
            "*.127.0.0.1:1",
            "a..org:1",
            "-a.org:1",
            "bücher.de:1",
            "127.1:80",
            "a*.org:1",
            "*.*.org:1",
        ]
        .iter()
        .map(|text| {
            text.parse::<Endpoint>()
                .map_or_else(|error| error.to_string(), |good| panic!("{good}"))
        })
        .collect();
        insta::assert_snapshot!(faults.join("\n"), @r"
        `` is not `host:port`: it has no port
        `a.org` is not `host:port`: it has no port
        `a.org:` is not `host:port`: `` is not a port
        `a.org:0` is not `host:port`: `0` is not a port
        `a.org:65536` is not `host:port`: `65536` is not a port
        `a.org:+1` is not `host:port`: `+1` is not a port
        `:80` is not `host:port`: it has no host
        `https://a.org/x` is not `host:port`: it is a URL
        `::1:80` is not `host:port`: an IPv6 address stands in brackets
        `[::1]` is not `host:port`: it has no port
        `[zz]:1` is not `host:port`: `zz` is not an IPv6 address
        `*.127.0.0.1:1` is not `host:port`: an address has nothing below it
        `a..org:1` is not `host:port`: `` is not a part of a DNS name
        `-a.org:1` is not `host:port`: `-a` is not a part of a DNS name
        `bücher.de:1` is not `host:port`: `bücher` is not a part of a DNS name
        `127.1:80` is not `host:port`: `127.1` is neither a name nor an IPv4 address in its usual form
        `a*.org:1` is not `host:port`: `a*` is not a part of a DNS name
        `*.*.org:1` is not `host:port`: `*` is not a part of a DNS name
        ");
    }
}
