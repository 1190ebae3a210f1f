//! The only way out for a plugin: its HTTP requests, and the connections that a jailed process asks for.
//!
//! # Rules
//! 1. Scheme `http` or `https`. Host and port of the URL must be granted by `net.connect`; of every redirect's URL as well.
//! 2. The host resolves names itself and looks at every address. If one of them is not a public unicast address (loopback, private, link-local
//!    with the cloud's metadata service, shared, multicast, reserved, or one of these inside IPv6), the request is refused, unless
//!    the grant names that very host without a wildcard. Then the name may lead into private networks, where the operator's own services are. It does not lead
//!    to this machine or its link, with the metadata service there: whoever owns a name says where it leads, and often he wrote the plugin too. Those take
//!    a grant of the address itself (`10.0.0.7:80`, `169.254.169.254:80`), or of `localhost`, whose owner is this machine.
//! 3. The connection goes to the addresses that were looked at: the check *is* the HTTP client's resolver, so there is no second look-up that
//!    could answer differently (DNS rebinding).
//! 4. At most [`REDIRECTS_MAX`] redirects, followed here one by one; proxies of the environment are not used.
//! 5. The reply has at most `payload_bytes_max` bytes, and everything ends by the call's deadline.
//!
//! Nothing is left out silently: headers that this code must set itself are refused, and credentials that are not carried to another
//! origin are named in the log.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use mortise_manifest::{Endpoint, Grant};
use mortise_runtime::Denied;
use mortise_wire::{
    Code, Status,
    host::{HttpHeader, HttpReply, HttpRequest},
};
use reqwest::{
    Client, Method, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};

use super::{About, NameLookup, denials::Denials};

/// How long one address has to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most redirects that are followed.
pub(crate) const REDIRECTS_MAX: usize = 10;

/// One plugin's way out.
pub(crate) struct Egress {
    about: About,
    denials: Arc<Denials>,
    grants: Vec<Endpoint>,
    /// Those of them without a wildcard in the host.
    literal: Vec<Endpoint>,
    /// For hosts that must resolve to public addresses.
    public: Result<Client, String>,
    /// For hosts that the grant names without a wildcard.
    named: Result<Client, String>,
    lookup: Arc<dyn NameLookup>,
    reply_bytes_max: usize,
}

/// One request, as it is now: redirects change it.
struct Hop {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Egress {
    pub(crate) fn new(
        about: About,
        denials: Arc<Denials>,
        grant: &Grant,
        lookup: Arc<dyn NameLookup>,
        reply_bytes_max: usize,
    ) -> Self {
        let texts = &grant.permissions.net_connect;
        let parse = |text: &String| text.parse::<Endpoint>().ok();
        let host_of = |text: &str| {
            text.rsplit_once(':')
                .map_or(text.to_owned(), |(host, _)| host.to_owned())
        };
        Self {
            about,
            denials,
            grants: texts.iter().filter_map(parse).collect(),
            literal: texts
                .iter()
                .filter(|text| !host_of(text).contains('*'))
                .filter_map(parse)
                .collect(),
            public: client(CheckedLookup {
                lookup: lookup.clone(),
                trust: Trust::Public,
            }),
            named: client(CheckedLookup {
                lookup: lookup.clone(),
                trust: Trust::Named,
            }),
            lookup,
            reply_bytes_max,
        }
    }

    /// Sends a request and follows its redirects.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn send(&self, request: HttpRequest, deadline: Instant) -> Result<HttpReply, Status> {
        let asked = Duration::from_millis(request.timeout_ms.into());
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = if asked.is_zero() { left } else { asked.min(left) };
        let url = request.url.clone();
        match tokio::time::timeout(limit, self.follow(request)).await {
            Ok(done) => done,
            Err(_) => Err(Status::new(
                Code::DeadlineExceeded,
                format!("`{url}` did not answer within {limit:.1?}"),
            )),
        }
    }

    /// Opens a connection, by rules 1 to 3.
    ///
    /// # Cancel safety
    /// Dropping the future abandons it.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<std::net::TcpStream, Status> {
        let trust = self.allow_host(host, port)?;
        let addresses = match address_of(host) {
            Some(address) => vec![address],
            None => self.lookup.lookup(host).await.map_err(|error| {
                Status::new(
                    Code::Unavailable,
                    format!("`{host}` could not be resolved: {error}"),
                )
            })?,
        };
        if let Some(refused) = trust.refuses(host, &addresses) {
            return Err(self.denied(&format!("reach `{host}`: {refused}"), host, port));
        }
        let mut last = format!("`{host}` has no address");
        for address in addresses {
            let connecting = tokio::net::TcpStream::connect(SocketAddr::new(address, port));
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => {
                    let failed = |error: std::io::Error| Status::new(Code::Internal, error.to_string());
                    return stream.into_std().map_err(failed);
                }
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = format!("no answer within {CONNECT_TIMEOUT:?}"),
            }
        }
        Err(Status {
            retryable: true,
            ..Status::new(
                Code::Unavailable,
                format!("`{host}:{port}` could not be reached: {last}"),
            )
        })
    }

    async fn follow(&self, request: HttpRequest) -> Result<HttpReply, Status> {
        let mut hop = first_hop(request)?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.one(&hop).await?;
            let Some(next) = redirect_of(&response, &hop)? else {
                return self.read(response).await;
            };
            self.redirect(&mut hop, &response, next);
        }
        Err(Status::new(
            Code::FailedPrecondition,
            format!("more than {REDIRECTS_MAX} redirects, the last to `{}`", hop.url),
        ))
    }

    /// Checks one URL and sends one request. Tells what is denied; a connection's denial is told by whoever asked for it.
    async fn one(&self, hop: &Hop) -> Result<Response, Status> {
        let sent = self.try_one(hop).await;
        if sent.as_ref().is_err_and(|it| it.kind() == Code::PermissionDenied) {
            let (host, port) = (hop.url.host_str(), hop.url.port_or_known_default());
            let target = format!("{}:{}", host.unwrap_or_default(), port.unwrap_or_default());
            self.denials.tell(Denied {
                capability: "net.connect",
                target: &target,
                how: "Http/Send",
            });
        }
        sent
    }

    async fn try_one(&self, hop: &Hop) -> Result<Response, Status> {
        let client = self.allow(&hop.url)?;
        let request = client
            .request(hop.method.clone(), hop.url.clone())
            .headers(hop.headers.clone());
        let sent = request.body(hop.body.clone()).send().await;
        sent.map_err(|error| self.failed(&hop.url, &error))
    }

    /// The client for this URL, if it is granted (rule 1), and its address if it has one in place of a name (rule 2).
    fn allow(&self, url: &Url) -> Result<&Client, Status> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Status::new(
                Code::InvalidArgument,
                format!("`{url}` is neither http nor https"),
            ));
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Status::new(
                Code::InvalidArgument,
                format!("`{url}` names no host"),
            ));
        };
        let client = match self.allow_host(host, port)? {
            Trust::Named => &self.named,
            Trust::Public => &self.public,
        };
        client
            .as_ref()
            .map_err(|why| Status::new(Code::Internal, format!("the host has no HTTP client: {why}")))
    }

    /// How far a host that is granted is trusted with its addresses.
    fn allow_host(&self, host: &str, port: u16) -> Result<Trust, Status> {
        if !self.grants.iter().any(|it| it.matches(host, port)) {
            return Err(self.denied(&format!("reach `{host}:{port}`"), host, port));
        }
        let named = self.literal.iter().any(|it| it.matches(host, port));
        if let Some(address) = address_of(host)
            && let Some((why, _)) = special(address)
            && !named
        {
            return Err(self.denied(&format!("reach `{address}`, which is {why}"), host, port));
        }
        Ok(if named { Trust::Named } else { Trust::Public })
    }

    fn denied(&self, what: &str, host: &str, port: u16) -> Status {
        let address = &self.about.address;
        Status::new(
            Code::PermissionDenied,
            format!(
                "plugin `{address}` may not {what}; add `{host}:{port}` to `net.connect` in its plugin.toml and in its `grant` in mortise.toml"
            ),
        )
    }

    fn failed(&self, url: &Url, error: &reqwest::Error) -> Status {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        let mut deepest = error.to_string();
        while let Some(it) = cause {
            if let Some(refused) = it.downcast_ref::<NotPublic>() {
                let (host, port) = (
                    url.host_str().unwrap_or_default(),
                    url.port_or_known_default().unwrap_or_default(),
                );
                return self.denied(&format!("reach `{host}`: {refused}"), host, port);
            }
            deepest = it.to_string();
            cause = it.source();
        }
        Status {
            retryable: true,
            ..Status::new(
                Code::Unavailable,
                format!("`{url}` could not be reached: {deepest}"),
            )
        }
    }

    /// Turns `hop` into the request that a redirect asks for.
    fn redirect(&self, hop: &mut Hop, response: &Response, next: Url) {
        let status = response.status().as_u16();
        let to_get = status == 303 && hop.method != Method::HEAD
            || matches!(status, 301 | 302) && hop.method == Method::POST;
        if to_get {
            hop.method = Method::GET;
            hop.body.clear();
            hop.headers.remove("content-type");
        }
        if next.origin() != hop.url.origin() {
            for name in ["authorization", "cookie", "proxy-authorization"] {
                if hop.headers.remove(name).is_some() {
                    let About {
                        address,
                        plugin,
                        instance,
                    } = &self.about;
                    tracing::warn!(
                        target: "mortise::plugin", plugin = %address, version = %plugin.version, %instance,
                        "a redirect from `{}` to `{}` leaves its origin: header `{name}` was not sent along",
                        hop.url.origin().ascii_serialization(), next.origin().ascii_serialization()
                    );
                }
            }
        }
        hop.url = next;
    }

    /// Reads a reply, at most to the limit.
    async fn read(&self, mut response: Response) -> Result<HttpReply, Status> {
        let most = self.reply_bytes_max;
        let too_large = || {
            Status::new(
                Code::ResourceExhausted,
                format!("the reply has more than {most} bytes, the plugin's `limits.payload_mib`"),
            )
        };
        if response
            .content_length()
            .is_some_and(|length| length > most as u64)
        {
            return Err(too_large());
        }
        let status = response.status().as_u16().into();
        let headers = response.headers().iter().map(|(name, value)| HttpHeader {
            name: name.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        });
        let headers = headers.collect();
        let mut body = Vec::new();
        let broken =
            |error: reqwest::Error| Status::new(Code::Unavailable, format!("the reply broke off: {error}"));
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > most {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpReply {
            status,
            headers,
            body,
        })
    }
}

fn first_hop(request: HttpRequest) -> Result<Hop, Status> {
    let invalid = |what: String| Status::new(Code::InvalidArgument, what);
    let HttpRequest {
        method,
        url,
        headers: given,
        body,
        ..
    } = request;
    let method = if method.is_empty() { "GET" } else { &method };
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| invalid(format!("`{method}` is not an HTTP method")))?;
    let url = Url::parse(&url).map_err(|error| invalid(format!("`{url}` is not a URL: {error}")))?;
    let mut headers = HeaderMap::new();
    for HttpHeader { name, value } in given {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid(format!("`{name}` is not a header's name")))?;
        if matches!(
            parsed.as_str(),
            "host"
                | "connection"
                | "content-length"
                | "transfer-encoding"
                | "upgrade"
                | "te"
                | "trailer"
                | "keep-alive"
        ) {
            return Err(invalid(format!(
                "header `{parsed}` is set by the host; leave it out"
            )));
        }
        let value = HeaderValue::from_str(&value)
            .map_err(|_| invalid(format!("the value of header `{name}` has control characters")))?;
        headers.append(parsed, value);
    }
    Ok(Hop {
        method,
        url,
        headers,
        body,
    })
}

/// Where a reply redirects to.
fn redirect_of(response: &Response, hop: &Hop) -> Result<Option<Url>, Status> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get("location") else {
        return Ok(None);
    };
    let bad = |why: String| {
        Status::new(
            Code::FailedPrecondition,
            format!("`{}` redirects to no URL: {why}", hop.url),
        )
    };
    let location = location.to_str().map_err(|error| bad(error.to_string()))?;
    hop.url
        .join(location)
        .map(Some)
        .map_err(|error| bad(format!("`{location}`: {error}")))
}

fn client(lookup: CheckedLookup) -> Result<Client, String> {
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(8)
        .dns_resolver(Arc::new(lookup));
    builder.build().map_err(|error| error.to_string())
}

// === the resolver ===

struct CheckedLookup {
    lookup: Arc<dyn NameLookup>,
    trust: Trust,
}

/// Which addresses a host may have (rule 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// A wildcard granted it.
    Public,
    /// A grant names it.
    Named,
}

/// A name leads to an address that it may not lead to.
#[derive(Debug)]
struct NotPublic {
    address: IpAddr,
    why: &'static str,
    trust: Trust,
}

impl Trust {
    fn refuses(self, host: &str, addresses: &[IpAddr]) -> Option<NotPublic> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_own = address_of(&host).is_some() || host == "localhost" || host.ends_with(".localhost");
        addresses.iter().find_map(|address| {
            let (why, near) = special(*address)?;
            let refused = match self {
                Self::Public => true,
                Self::Named => near && !is_own,
            };
            refused.then_some(NotPublic {
                address: *address,
                why,
                trust: self,
            })
        })
    }
}

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, why, trust } = self;
        let missing = match trust {
            Trust::Public => "no grant names that host without a wildcard",
            Trust::Named => "only a grant of the address itself, or of `localhost`, leads there",
        };
        write!(f, "it resolves to {address}, which is {why}, and {missing}")
    }
}

impl Error for NotPublic {}

impl Resolve for CheckedLookup {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, trust) = (self.lookup.clone(), self.trust);
        Box::pin(async move {
            let addresses = lookup.lookup(name.as_str()).await?;
            if let Some(refused) = trust.refuses(name.as_str(), &addresses) {
                return Err(refused.into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter().map(|it| SocketAddr::new(it, 0)));
            Ok(addresses)
        })
    }
}

/// The address that stands in place of a name.
fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Why an address is not a public unicast address, and whether it is this machine or on its link; `None` if it is one.
fn special(address: IpAddr) -> Option<(&'static str, bool)> {
    let why = match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }?;
    Some((why, matches!(why, LOOPBACK | METADATA | LINK_LOCAL | THIS_HOST)))
}

const LOOPBACK: &str = "a loopback address";
const METADATA: &str = "the metadata service of clouds";
const LINK_LOCAL: &str = "a link-local address";
const THIS_HOST: &str = "an address of this host";

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        _ if address.is_loopback() => LOOPBACK,
        _ if address == Ipv4Addr::new(169, 254, 169, 254) => METADATA,
        _ if address.is_link_local() => LINK_LOCAL,
        _ if address.is_private() => "a private address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_broadcast() => "the broadcast address",
        (0, ..) => THIS_HOST,
        (100, 64..=127, _) => "a shared address of a provider",
        (192, 0, 0 | 2)
        | (198, 51, 100)
        | (203, 0, 113)
        | (198, 18 | 19, _)
        | (192, 88, 99)
        | (240.., ..) => "a reserved address",
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        special_v4(Ipv4Addr::new(a, b, c, d))
    };
    Some(match segments {
        _ if address.is_loopback() => LOOPBACK,
        _ if address.is_unspecified() => THIS_HOST,
        _ if address.is_multicast() => "a multicast address",
        [0xfd00, 0x0ec2, ..] => METADATA,
        _ if address.is_unique_local() => "a private address",
        _ if address.is_unicast_link_local() => LINK_LOCAL,
        [0xfec0..=0xfeff, ..] => "a site-local address",
        // Addresses that carry an IPv4 address: translators and tunnels deliver them there.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return embedded(high, low),
        [0x2002, high, low, ..] => return embedded(high, low),
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, ..] | [0x2001, 0 | 0xdb8, ..] | [0x100, 0, 0, 0, ..] => {
            "a reserved address"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_named() {
        let cases = [
            ("93.184.216.34", None),
            ("2606:2800:220:1::1", None),
            ("127.9.9.9", Some("a loopback address")),
            ("169.254.169.254", Some("the metadata service of clouds")),
            ("169.254.1.1", Some("a link-local address")),
            ("10.0.0.1", Some("a private address")),
            ("172.31.255.255", Some("a private address")),
            ("172.32.0.1", None),
            ("192.168.0.1", Some("a private address")),
            ("100.64.0.1", Some("a shared address of a provider")),
            ("100.128.0.1", None),
            ("0.0.0.0", Some("an address of this host")),
            ("224.0.0.1", Some("a multicast address")),
            ("255.255.255.255", Some("the broadcast address")),
            ("240.0.0.1", Some("a reserved address")),
            ("198.18.0.1", Some("a reserved address")),
            ("::1", Some("a loopback address")),
            ("::", Some("an address of this host")),
            ("::ffff:127.0.0.1", Some("a loopback address")),
            ("::7f00:1", Some("a reserved address")),
            ("64:ff9b::7f00:1", Some("a loopback address")),
            ("64:ff9b::5db8:d822", None),
            ("2002:0a00:0001::", Some("a private address")),
            ("fd00:ec2::254", Some("the metadata service of clouds")),
            ("fd12::1", Some("a private address")),
            ("fe80::1", Some("a link-local address")),
            ("fec0::1", Some("a site-local address")),
            ("ff02::1", Some("a multicast address")),
            ("2001::1", Some("a reserved address")),
        ];
        for (text, expected) in cases {
            let why = special(text.parse().expect(text)).map(|(why, _)| why);
            assert_eq!(why, expected, "{text}");
        }
    }

    #[test]
    fn the_owner_of_a_granted_name_does_not_lead_to_this_machine() {
        let refuses = |trust: Trust, host: &str, address: &str| {
            let address: IpAddr = address.parse().expect(address);
            trust.refuses(host, &[address]).is_some()
        };
        for near in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
        ] {
            assert!(refuses(Trust::Named, "api.vendor.com", near), "{near}");
            assert!(refuses(Trust::Named, "notlocalhost", near), "{near}");
            assert!(!refuses(Trust::Named, near, near), "{near}");
            assert!(!refuses(Trust::Named, "LocalHost.", near), "{near}");
            assert!(refuses(Trust::Public, "localhost", near), "{near}");
        }
        for inside in ["10.0.0.1", "fd12::1", "100.64.0.1"] {
            assert!(!refuses(Trust::Named, "orders.corp", inside), "{inside}");
            assert!(refuses(Trust::Public, "orders.corp", inside), "{inside}");
        }
    }

    #[test]
    fn headers_of_the_connection_are_refused_not_stripped() {
        let header = |name: &str, value: &str| HttpHeader {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let hop = |headers| {
            first_hop(HttpRequest {
                url: "http://a.org/".to_owned(),
                headers,
                ..HttpRequest::default()
            })
            .map(|it| it.headers.len())
        };
        assert_eq!(hop(vec![header("x-a", "1"), header("X-A", "2")]), Ok(2));
        for name in ["Host", "content-length", "Transfer-Encoding"] {
            assert_eq!(
                hop(vec![header(name, "1")]).map_err(|it| it.kind()),
                Err(Code::InvalidArgument),
                "{name}"
            );
        }
        assert_eq!(
            hop(vec![header("x", "a\r\nb: c")]).map_err(|it| it.kind()),
            Err(Code::InvalidArgument)
        );
    }
}
