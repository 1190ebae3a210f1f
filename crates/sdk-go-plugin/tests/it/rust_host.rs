//! What Debian's Go host is too old to see: reflection, standard output, multiplexing; and the faults.

use std::{process::Stdio, time::Duration};

use bytes::Bytes;
use mortise_goplugin::{
    AddressPolicy, CallHeaders, ConnectOptions, Connection, Cookie, Identity, LogEvent, LogLevel, LogParser,
    Offer, OutputChunk, PeerCheck, Scanner,
};
use prost::Message;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    child: Child,
    connection: Connection,
    logs: mpsc::UnboundedReceiver<LogEvent>,
    output: mpsc::Receiver<OutputChunk>,
    _dir: tempfile::TempDir,
}

async fn start(mtls: bool, multiplex: bool) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let identity = mtls.then(|| Identity::generate().unwrap());
    let offer = Offer {
        cookie: Cookie::parse("BASIC_PLUGIN=hello").unwrap(),
        versions: vec![3],
        certificate_pem: identity.as_ref().map(|it| it.pem().to_owned()),
        multiplex,
        directory: dir.path().to_owned(),
    };
    let mut child = Command::new(crate::plugin())
        .env_clear()
        .envs(offer.environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (tell, logs) = mpsc::unbounded_channel();
    let mut stderr = child.stderr.take().unwrap();
    tokio::spawn(async move {
        let (mut parser, mut chunk) = (LogParser::default(), vec![0; 4096]);
        while let Ok(read) = stderr.read(&mut chunk).await
            && read > 0
        {
            parser.push(&chunk[..read], |event| drop(tell.send(event)));
        }
    });
    let mut stdout = child.stdout.take().unwrap();
    let (mut scanner, mut chunk) = (Scanner::default(), vec![0; 4096]);
    let handshake = loop {
        let read = timeout(PATIENCE, stdout.read(&mut chunk)).await.unwrap().unwrap();
        assert!(read > 0);
        if let Some((handshake, _)) = scanner.push(&chunk[..read]).unwrap() {
            break handshake;
        }
    };
    let (output, chunks) = mpsc::channel(16);
    let options = ConnectOptions {
        identity,
        policy: AddressPolicy {
            directory: Some(dir.path().to_owned()),
            peer: Some(PeerCheck::group(child.id().unwrap())),
            tcp: mtls,
        },
        directory: dir.path().to_owned(),
        output: Some(output),
    };
    let agreed = offer.accept(handshake).unwrap();
    let connection = timeout(PATIENCE, Connection::open(&agreed, options))
        .await
        .unwrap()
        .unwrap();
    Running {
        child,
        connection,
        logs,
        output: chunks,
        _dir: dir,
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PrintKv {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    text: String,
}

impl Running {
    async fn print_kv(&self, key: &str, text: &str, headers: &CallHeaders) -> Result<Bytes, Status> {
        let request = PrintKv {
            key: key.to_owned(),
            text: text.to_owned(),
        };
        self.connection
            .call("/grpctest.Test/PrintKV", headers, request.encode_to_vec().into())
            .await
    }

    async fn log(&mut self, text: &str) -> LogEvent {
        loop {
            let event = timeout(PATIENCE, self.logs.recv()).await.unwrap().unwrap();
            if event.message.contains(text) {
                return event;
            }
        }
    }
}

#[tokio::test]
async fn all_four_ways_and_its_end() {
    for (mtls, multiplex) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut running = start(mtls, multiplex).await;
        let reflected = running.connection.reflect().await.unwrap().unwrap();
        assert_eq!(reflected.services, ["grpctest.Test"]);
        let error = running
            .print_kv("nonsense", "", &CallHeaders::default())
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::InvalidArgument, "`nonsense` is no key of this plugin")
        );
        let details = mortise_wire::Status::decode(error.details()).unwrap();
        assert_eq!(details.details[0].value, [1, 2, 3]);
        running.connection.shutdown().await;
        let status = timeout(PATIENCE, running.child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn what_it_prints_goes_through_the_protocol() {
    let mut running = start(false, false).await;
    running
        .print_kv("print", "hello", &CallHeaders::default())
        .await
        .unwrap();
    let chunk = timeout(PATIENCE, running.output.recv()).await.unwrap().unwrap();
    assert_eq!((chunk.is_stderr, &*chunk.data), (false, &b"hello\n"[..]));
}

#[tokio::test]
async fn deadline_and_headers_reach_it() {
    let running = start(false, false).await;
    let headers = CallHeaders {
        timeout: Some(Duration::from_secs(9)),
        metadata: vec![("x-tenant".to_owned(), "a".to_owned())],
    };
    let status = running.print_kv("seen", "", &headers).await.unwrap_err();
    assert_eq!(status.message(), "deadline=true x-tenant=a");
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    let mut running = start(false, false).await;
    let headers = CallHeaders::default();
    assert!(
        timeout(Duration::from_millis(50), running.print_kv("sleep", "", &headers))
            .await
            .is_err()
    );
    assert_eq!(running.log("sleep was cancelled").await.level, LogLevel::Warn);
}

#[tokio::test]
async fn a_call_to_the_host_says_that_there_is_nothing() {
    let running = start(false, false).await;
    let status = running
        .print_kv("host", "key", &CallHeaders::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("a go-plugin host offers no services"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_panic_is_logged_and_ends_it() {
    let mut running = start(false, false).await;
    let status = running
        .print_kv("panic", "out of fuel", &CallHeaders::default())
        .await
        .unwrap_err();
    assert!(
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal),
        "{status:?}"
    );
    let event = running.log("out of fuel").await;
    assert_eq!(event.level, LogLevel::Error);
    assert_eq!(running.child.wait().await.unwrap().code(), Some(101));
}
