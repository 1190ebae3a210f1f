//! Outbound HTTP: every hop and every address is checked, against real servers on this machine.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use mortise_host::{CallOptions, Host, LoadRequest, NameLookup};
use mortise_manifest::Permissions;
use mortise_runtime::BoxFuture;
use mortise_wire::{
    Code, Status,
    host::{HttpHeader, HttpReply, HttpRequest, target},
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::closures::{World, grant, request};

/// A server that answers by path and notes what it got.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn({
            let requests = requests.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, requests.clone()));
                }
            }
        });
        Self { port, requests }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// `/to/STATUS/URL` redirects, `/big` sends 2 MiB without saying so, `/never` does not answer, all else echoes.
async fn answer(mut stream: TcpStream, requests: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    requests.lock().unwrap().push(head.clone());
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let reply = match path.split('/').nth(1) {
        Some("to") => {
            let mut parts = path.splitn(4, '/').skip(2);
            let (status, url) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!(
                "HTTP/1.1 {status} x\r\nlocation: {url}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            .into_bytes()
        }
        Some("big") => {
            let mut reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
            reply.resize(2 << 20, b'x');
            reply
        }
        Some("never") => return std::future::pending().await,
        _ => {
            let mut reply = format!(
                "HTTP/1.1 200 OK\r\nx-made-by: test\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            )
            .into_bytes();
            reply.extend(body);
            reply
        }
    };
    stream.write_all(&reply).await
}

/// Answers from a list per name; the last answer stays.
#[derive(Clone, Default)]
struct Names {
    answers: Arc<Mutex<HashMap<String, Vec<Vec<IpAddr>>>>>,
    lookups: Arc<AtomicUsize>,
}

impl Names {
    fn set(&self, name: &str, answers: &[&[&str]]) {
        let parse = |all: &&[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
        let answers = answers.iter().rev().map(parse).collect();
        self.answers.lock().unwrap().insert(name.to_owned(), answers);
    }
}

impl NameLookup for Names {
    fn lookup<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.get_mut(host) {
            Some(left) if left.len() > 1 => left.pop(),
            Some(left) => left.first().cloned(),
            None => None,
        };
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

async fn host_with(world: &World, names: &Names, endpoints: &[String]) -> Host {
    let host = world.builder().name_lookup(names.clone()).start().await.unwrap();
    let more = format!("[limits]\npayload_mib = 1\n[permissions]\nnet.connect = {endpoints:?}\n");
    let (folder, _) = world.package("web", "1.0.0", &more);
    let permissions = Permissions {
        net_connect: endpoints.to_vec(),
        ..Permissions::default()
    };
    host.load(LoadRequest {
        grant: grant(permissions),
        ..request(&folder)
    })
    .await
    .unwrap();
    host
}

async fn send(host: &Host, request: HttpRequest) -> Result<HttpReply, Status> {
    let mut payload = format!("{} ", target::HTTP_SEND).into_bytes();
    payload.extend(request.encode_to_vec());
    let reply = host
        .call("plugin.web.Relay", payload.into(), CallOptions::default())
        .await;
    reply
        .map(|it| HttpReply::decode(it).unwrap())
        .map_err(Status::from)
}

async fn get(host: &Host, url: String) -> Result<HttpReply, Status> {
    send(
        host,
        HttpRequest {
            url,
            ..HttpRequest::default()
        },
    )
    .await
}

#[tokio::test]
async fn a_granted_request_goes_out_and_comes_back() {
    let (world, server) = (World::new(), Server::start().await);
    let host = host_with(&world, &Names::default(), &[server.endpoint()]).await;
    let header = HttpHeader {
        name: "x-mine".to_owned(),
        value: "1".to_owned(),
    };
    let request = HttpRequest {
        method: "POST".to_owned(),
        url: server.url("/echo"),
        headers: vec![header],
        body: b"text body".to_vec(),
        timeout_ms: 0,
    };
    let reply = send(&host, request).await.unwrap();
    assert_eq!(
        (reply.status, reply.body.as_slice()),
        (200, b"text body".as_slice())
    );
    assert!(reply.headers.iter().any(|it| it.name == "x-made-by"));
    let seen = server.requests();
    assert!(
        seen[0].starts_with("post /echo ") && seen[0].contains("x-mine: 1"),
        "{seen:?}"
    );
    assert!(!seen[0].contains("referer"), "{seen:?}");
}

#[tokio::test]
async fn what_is_not_granted_is_refused_before_anything_is_sent() {
    let (world, server, other) = (World::new(), Server::start().await, Server::start().await);
    let host = host_with(&world, &Names::default(), &[server.endpoint()]).await;
    let port = server.port;
    for (url, code) in [
        (other.url("/"), Code::PermissionDenied),
        (format!("http://localhost:{port}/"), Code::PermissionDenied),
        (format!("http://[::1]:{port}/"), Code::PermissionDenied),
        (
            "http://169.254.169.254/latest/meta-data".to_owned(),
            Code::PermissionDenied,
        ),
        (format!("ftp://127.0.0.1:{port}/"), Code::InvalidArgument),
        ("file:///etc/passwd".to_owned(), Code::InvalidArgument),
        ("no url".to_owned(), Code::InvalidArgument),
    ] {
        let refused = get(&host, url.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), code, "{url}: {refused}");
    }
    // The same address in other clothes is the same address.
    assert_eq!(
        get(&host, format!("http://2130706433:{port}/"))
            .await
            .unwrap()
            .status,
        200
    );
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn every_hop_of_a_redirect_needs_the_grant() {
    let (world, granted, secret) = (World::new(), Server::start().await, Server::start().await);
    let host = host_with(&world, &Names::default(), &[granted.endpoint()]).await;
    let refused = get(&host, granted.url(&format!("/to/302/{}", secret.url("/secret"))))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Code::PermissionDenied, "{refused}");
    assert!(refused.message.contains(&secret.endpoint()), "{refused}");
    assert!(secret.requests().is_empty());
    let twice = granted.url(&format!(
        "/to/307/{}",
        granted.url(&format!("/to/302/{}", granted.url("/end")))
    ));
    assert_eq!(get(&host, twice).await.unwrap().status, 200);
    assert_eq!(granted.requests().len(), 4);
}

#[tokio::test]
async fn redirects_end_after_ten() {
    let (world, server) = (World::new(), Server::start().await);
    let host = host_with(&world, &Names::default(), &[server.endpoint()]).await;
    let chain =
        |hops: usize| (0..hops).fold(server.url("/end"), |url, _| server.url(&format!("/to/302/{url}")));
    assert_eq!(get(&host, chain(10)).await.unwrap().status, 200);
    let refused = get(&host, chain(11)).await.unwrap_err();
    assert_eq!(refused.kind(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message.contains("more than 10 redirects"), "{refused}");
}

#[tokio::test]
async fn a_redirect_to_another_origin_carries_no_credentials() {
    let (world, first, second) = (World::new(), Server::start().await, Server::start().await);
    let host = host_with(&world, &Names::default(), &[first.endpoint(), second.endpoint()]).await;
    let header = |name: &str| HttpHeader {
        name: name.to_owned(),
        value: "s3cret".to_owned(),
    };
    let request = |url| HttpRequest {
        method: "POST".to_owned(),
        url,
        headers: vec![header("authorization"), header("cookie"), header("x-plain")],
        body: b"body".to_vec(),
        timeout_ms: 0,
    };
    send(
        &host,
        request(first.url(&format!("/to/303/{}", second.url("/end")))),
    )
    .await
    .unwrap();
    let seen = second.requests().remove(0);
    assert!(seen.starts_with("get /end "), "303 makes it a GET: {seen}");
    assert!(
        !seen.contains("authorization") && !seen.contains("cookie") && seen.contains("x-plain: s3cret"),
        "{seen}"
    );
    let reply = send(
        &host,
        request(first.url(&format!("/to/308/{}", first.url("/end")))),
    )
    .await
    .unwrap();
    assert_eq!(reply.body, b"body", "308 keeps method and body");
    assert!(
        first.requests().last().unwrap().contains("authorization: s3cret"),
        "the same origin keeps them"
    );
}

#[tokio::test]
async fn names_must_lead_to_public_addresses_unless_the_grant_names_them() {
    let (world, server, names) = (World::new(), Server::start().await, Names::default());
    let port = server.port;
    names.set("inside.corp.test", &[&["127.0.0.1"]]);
    names.set("mixed.corp.test", &[&["93.184.216.34", "10.0.0.1"]]);
    names.set("meta.corp.test", &[&["169.254.169.254"]]);
    names.set("mapped.corp.test", &[&["::ffff:127.0.0.1"]]);
    names.set("named.corp.test", &[&["127.0.0.1"]]);
    names.set("own.localhost", &[&["127.0.0.1"]]);
    let endpoints = ["*.corp.test", "named.corp.test", "own.localhost"].map(|it| format!("{it}:{port}"));
    let host = host_with(&world, &names, &endpoints).await;
    for (name, address) in [
        ("inside", "127.0.0.1, which is a loopback address"),
        ("mixed", "10.0.0.1, which is a private address"),
        ("meta", "169.254.169.254, which is the metadata service of clouds"),
        ("mapped", "127.0.0.1, which is a loopback address"),
        // Granted by name: whoever owns the name does not own this machine.
        (
            "named",
            "127.0.0.1, which is a loopback address, and only a grant of the address itself",
        ),
    ] {
        let refused = get(&host, format!("http://{name}.corp.test:{port}/"))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Code::PermissionDenied, "{name}: {refused}");
        assert!(refused.message.contains(address), "{name}: {refused}");
    }
    assert!(server.requests().is_empty());
    assert_eq!(
        get(&host, format!("http://own.localhost:{port}/"))
            .await
            .unwrap()
            .status,
        200
    );
    assert!(server.requests()[0].contains(&format!("host: own.localhost:{port}")));
    let unknown = get(&host, format!("http://unknown.corp.test:{port}/"))
        .await
        .unwrap_err();
    assert_eq!(unknown.kind(), Code::Unavailable, "{unknown}");
}

#[tokio::test]
async fn a_name_that_changes_its_address_after_the_check_gains_nothing() {
    let (world, server, names) = (World::new(), Server::start().await, Names::default());
    // Public when it is looked at, this machine when somebody looks again. Nothing answers at the public one.
    names.set("rebind.corp.test", &[&["192.31.196.1"], &["127.0.0.1"]]);
    let host = host_with(&world, &names, &[format!("*.corp.test:{}", server.port)]).await;
    let request = HttpRequest {
        url: format!("http://rebind.corp.test:{}/", server.port),
        timeout_ms: 300,
        ..HttpRequest::default()
    };
    let failed = send(&host, request.clone()).await.unwrap_err();
    assert!(
        matches!(failed.kind(), Code::Unavailable | Code::DeadlineExceeded),
        "{failed}"
    );
    assert_eq!(
        names.lookups.load(Ordering::SeqCst),
        1,
        "the connection went to what was checked"
    );
    assert!(server.requests().is_empty());
    let refused = send(&host, request).await.unwrap_err();
    assert_eq!(refused.kind(), Code::PermissionDenied, "{refused}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn replies_have_a_largest_size_and_a_deadline() {
    let (world, server) = (World::new(), Server::start().await);
    let host = host_with(&world, &Names::default(), &[server.endpoint()]).await;
    let refused = get(&host, server.url("/big")).await.unwrap_err();
    assert_eq!(refused.kind(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message.contains("1048576 bytes"), "{refused}");
    let request = HttpRequest {
        url: server.url("/never"),
        timeout_ms: 100,
        ..HttpRequest::default()
    };
    assert_eq!(
        send(&host, request).await.unwrap_err().kind(),
        Code::DeadlineExceeded
    );
}
