//! Three calls of etcd: authenticate, range, watch.

use std::{str::FromStr as _, time::Duration};

use http::uri::PathAndQuery;
use mortise_config::{Outage, Reference};
use mortise_manifest::EtcdSettings;
use tokio_stream::StreamExt as _;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::api::{
    AuthenticateRequest, AuthenticateResponse, KeyValue, RangeRequest, RangeResponse, WatchCreateRequest,
    WatchRequest, WatchResponse,
};

/// Longest for a connection, and for the answer to a call that answers once.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How often a connection on which nothing happens is tried. etcd allows one ping in 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Keys that are asked for at once.
const PAGE: i64 = 500;
/// Most keys below the prefix.
const KEYS_MAX: usize = 100_000;
/// Largest answer, in bytes: a page of values of the largest size that etcd takes by default would be larger, and nobody configures like that.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// A connection to one endpoint.
pub(crate) struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

/// All keys at one revision.
pub(crate) struct Listing {
    pub(crate) revision: i64,
    pub(crate) cluster: u64,
    pub(crate) kvs: Vec<KeyValue>,
}

/// What is told about a range of keys.
pub(crate) struct Watching {
    pub(crate) responses: Streaming<WatchResponse>,
}

// === impl Client ===

impl Client {
    /// Connects to an endpoint, and says who we are if the settings say so.
    pub(crate) async fn connect(settings: &EtcdSettings, endpoint: &str) -> Result<Self, Outage> {
        let failed = |error: &dyn std::fmt::Display| Outage::new(format_args!("{endpoint}: {error}"));
        let mut to = Endpoint::from_str(endpoint)
            .map_err(|error| failed(&with_causes(&error)))?
            .connect_timeout(ANSWER_MAX)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(ANSWER_MAX)
            .keep_alive_while_idle(true);
        if endpoint.starts_with("https:") {
            let mut tls = ClientTlsConfig::new();
            tls = match &settings.ca_file {
                Some(path) => {
                    let pem = tokio::fs::read(path).await;
                    let pem = pem.map_err(|error| failed(&format_args!("`ca_file` {path}: {error}")))?;
                    tls.ca_certificate(Certificate::from_pem(pem))
                }
                None => tls.with_enabled_roots(),
            };
            to = to.tls_config(tls).map_err(|error| failed(&with_causes(&error)))?;
        }
        let channel = to.connect().await.map_err(|error| failed(&with_causes(&error)))?;
        let mut client = Self { channel, token: None };
        if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
            client.token = Some(
                client
                    .authenticate(user, password)
                    .await
                    .map_err(|error| failed(&error))?,
            );
        }
        Ok(client)
    }

    async fn authenticate(&self, user: &str, password: &str) -> Result<MetadataValue<Ascii>, String> {
        let reference = Reference::parse(password).map_err(|why| format!("`password` {why}"))?;
        // Read each time: it may be another one by now.
        let reading = tokio::task::spawn_blocking(move || reference.read());
        let password = reading
            .await
            .unwrap_or_else(|_| Err("the password was not read".to_owned()))?;
        let request = AuthenticateRequest {
            name: user.to_owned(),
            password,
        };
        let answer: AuthenticateResponse = self
            .unary("/etcdserverpb.Auth/Authenticate", request)
            .await
            .map_err(|status| format!("user `{user}` is not let in: {}", told(&status)))?;
        let mut token =
            MetadataValue::from_str(&answer.token).map_err(|_| "its token is no header".to_owned())?;
        token.set_sensitive(true);
        Ok(token)
    }

    /// All keys that begin with `prefix`, as they are at one moment.
    pub(crate) async fn list(&self, prefix: &[u8]) -> Result<Listing, Outage> {
        let mut request = RangeRequest {
            key: prefix.to_vec(),
            range_end: end_of(prefix),
            limit: PAGE,
            revision: 0,
        };
        let mut kvs = Vec::new();
        loop {
            let page: RangeResponse = self
                .unary("/etcdserverpb.KV/Range", request.clone())
                .await
                .map_err(|status| Outage::new(format_args!("its keys were not listed: {}", told(&status))))?;
            let header = page.header.unwrap_or_default();
            if request.revision == 0 {
                // Later pages are of the same moment.
                request.revision = header.revision;
            }
            let next = page.kvs.last().map(|it| [&*it.key, &[0]].concat());
            kvs.extend(page.kvs);
            if kvs.len() > KEYS_MAX {
                return Err(Outage::new(format_args!(
                    "there are more than {KEYS_MAX} keys below the prefix"
                )));
            }
            match next {
                Some(next) if page.more => request.key = next,
                _ => {
                    return Ok(Listing {
                        revision: request.revision,
                        cluster: header.cluster_id,
                        kvs,
                    });
                }
            }
        }
    }

    /// What happens to keys that begin with `prefix`, from revision `from` on.
    pub(crate) async fn watch(&self, prefix: &[u8], from: i64) -> Result<Watching, Outage> {
        let create = WatchCreateRequest {
            key: prefix.to_vec(),
            range_end: end_of(prefix),
            start_revision: from,
            progress_notify: true,
        };
        let first = tokio_stream::once(WatchRequest { create: Some(create) });
        // The end of the requests would be the end of the watch.
        let request = self.lasting(first.chain(tokio_stream::pending()));
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let opening = async {
            let mut grpc = self.grpc().await?;
            grpc.streaming(request, path, ProstCodec::default()).await
        };
        let opened = tokio::time::timeout(ANSWER_MAX, opening).await;
        match opened {
            Ok(Ok(response)) => Ok(Watching {
                responses: response.into_inner(),
            }),
            Ok(Err(status)) => Err(Outage::new(format_args!(
                "it cannot be watched: {}",
                told(&status)
            ))),
            Err(_) => Err(Outage::new("it does not answer")),
        }
    }

    async fn unary<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let asking = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(self.request(request), PathAndQuery::from_static(path), codec)
                .await
        };
        match tokio::time::timeout(ANSWER_MAX, asking).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("it does not answer")),
        }
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(with_causes(&error)))?;
        Ok(grpc)
    }

    /// A request that is answered for as long as the connection lives. A member that is cut off from the others would keep us, and tell nothing; this way it
    /// ends the watch.
    fn lasting<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        request
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// The first key that does not begin with `prefix`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // Every key begins with nothing but 0xff's: until the end of all.
    vec![0]
}

/// A status as people read it.
pub(crate) fn told(status: &Status) -> String {
    format!("{} ({:?})", status.message(), status.code())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(it) = cause {
        text = format!("{text}: {it}");
        cause = it.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_asks_for_a_member_that_has_a_leader() {
        let client = Client {
            channel: Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
            token: None,
        };
        let request = client.lasting(());
        assert_eq!(
            request.metadata().get("hasleader").map(|it| it.as_bytes()),
            Some(&b"true"[..])
        );
    }

    #[test]
    fn a_range_ends_where_its_prefix_does() {
        assert_eq!(end_of(b"/m/"), b"/m0");
        assert_eq!(end_of(b"a\xff"), b"b");
        assert_eq!(end_of(b"\xff\xff"), [0]);
    }
}
