//! Webhooks against a real HTTP server: signatures, retries, what is not tried again, a receiver that never answers.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use mortise_host::{CanaryRequest, Host, Webhook, WebhookRetry};
use mortise_manifest::{HostConfig, WebhookForm};
use serde_json::Value;
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::closures::{World, request, until};

/// One request that a receiver got.
#[derive(Clone, Debug)]
struct Got {
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let line = self
            .head
            .lines()
            .find_map(|it| it.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A receiver that answers the first requests with these statuses, and all others with 200; 0 is no answer.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (noted, statuses) = (got.clone(), statuses.to_vec());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = noted.lock().unwrap().len();
                let status = statuses.get(number).copied().unwrap_or(200);
                // One after the other, so that the order of the notes is that of the requests.
                let _ = answer(stream, status, &noted).await;
            }
        });
        Self { port, got }
    }

    fn webhook(&self, form: WebhookForm) -> Webhook {
        let mut webhook = Webhook::new(format!("http://127.0.0.1:{}/hook/secret", self.port), form);
        webhook.retry = WebhookRetry {
            attempts: 4,
            first: Duration::from_millis(10),
            most: Duration::from_millis(40),
            timeout: Duration::from_secs(5),
        };
        webhook
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn answer(mut stream: TcpStream, status: u16, noted: &Mutex<Vec<Got>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    noted.lock().unwrap().push(Got { head, body });
    if status == 0 {
        std::future::pending::<()>().await;
    }
    let reply = format!("HTTP/1.1 {status} x\r\ncontent-length: 4\r\nconnection: close\r\n\r\nsaid");
    stream.write_all(reply.as_bytes()).await
}

/// A host whose canary is told to these, and is aborted in its first step: two decisions.
async fn two_decisions(world: &World, webhooks: Vec<Webhook>) -> Host {
    let builder = webhooks
        .into_iter()
        .fold(world.builder(), |builder, it| builder.webhook(it));
    let host = builder.start().await.unwrap();
    world.load(&host, "echo", "1.0.0").await;
    let (folder, _) = world.package("echo", "1.1.0", "");
    host.start_canary("uid:1", CanaryRequest::new(request(&folder)))
        .await
        .unwrap();
    host.abort_canary("uid:2", "echo", "a test").await.unwrap();
    host
}

#[tokio::test]
async fn a_decision_is_told_again_until_it_is_taken_and_it_is_signed() {
    let world = World::new();
    let receiver = Receiver::start(&[503, 429, 200]).await;
    let mut webhook = receiver.webhook(WebhookForm::Json);
    webhook.secret = Some(b"between us".to_vec());
    let _host = two_decisions(&world, vec![webhook]).await;
    until("both are told", || receiver.got().len() >= 4).await;
    let got = receiver.got();
    assert_eq!(
        got.len(),
        4,
        "two failures, and one more attempt for the second decision"
    );
    assert!(
        got[..3].iter().all(|it| it.body == got[0].body),
        "the same at each attempt"
    );
    assert!(
        got[..3]
            .iter()
            .all(|it| it.header("mortise-delivery") == got[0].header("mortise-delivery"))
    );
    assert_ne!(
        got[3].header("mortise-delivery"),
        got[0].header("mortise-delivery")
    );
    for one in &got {
        let (time, hex) = one
            .header("mortise-signature")
            .strip_prefix("t=")
            .unwrap()
            .split_once(",v1=")
            .unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"between us").unwrap();
        mac.update(format!("{time}.").as_bytes());
        mac.update(&one.body);
        let expected: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|it| format!("{it:02x}"))
            .collect();
        assert_eq!(hex, expected);
        let unix = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        assert!(unix.abs_diff(time.parse().unwrap()) < 600);
    }
    let (first, last) = (got[0].json(), got[3].json());
    assert_eq!(got[0].header("mortise-event"), "canary.step");
    for (name, expected) in [
        ("plugin", "echo"),
        ("version", "1.1.0"),
        ("baseline_version", "1.0.0"),
        ("actor", "uid:1"),
    ] {
        assert_eq!(first[name], expected, "{first}");
    }
    assert_eq!(last["kind"], "canary.rolled_back");
    assert_eq!(last["text"], "rolled back: an operator gave it up: a test");
    assert_eq!((&last["weight"], &last["actor"]), (&0.into(), &"uid:2".into()));
}

#[tokio::test]
async fn a_robot_gets_one_line_and_what_is_refused_is_not_tried_again() {
    let world = World::new();
    let robot = Receiver::start(&[]).await;
    let strict = Receiver::start(&[400]).await;
    let dead = Receiver::start(&[500; 100]).await;
    let webhooks = vec![
        robot.webhook(WebhookForm::Chat),
        strict.webhook(WebhookForm::Json),
        dead.webhook(WebhookForm::Json),
    ];
    let _host = two_decisions(&world, webhooks).await;
    until("the robot heard", || robot.got().len() == 2).await;
    assert_eq!(
        robot.got()[1].json(),
        serde_json::json!({"text": "canary of `echo`: 1.1.0 beside 1.0.0: rolled back: an operator gave it up: a test"})
    );
    until("four attempts for each", || dead.got().len() == 8).await;
    assert_eq!(strict.got().len(), 2, "400 is an answer");
    assert!(
        !robot.got()[0].head.contains("mortise-signature"),
        "nobody gave it a secret"
    );
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_nobody_up() {
    let world = World::new();
    let mute = Receiver::start(&[0]).await;
    let host = world
        .builder()
        .webhook(mute.webhook(WebhookForm::Json))
        .start()
        .await
        .unwrap();
    world.load(&host, "echo", "1.0.0").await;
    let (folder, _) = world.package("echo", "1.1.0", "");
    // More decisions than the queue has places.
    for _ in 0..40 {
        host.start_canary("uid:1", CanaryRequest::new(request(&folder)))
            .await
            .unwrap();
        host.abort_canary("uid:1", "echo", "").await.unwrap();
    }
    assert_eq!(mute.got().len(), 1);
    assert_eq!(host.canaries()[0].state, "rolled-back");
}

#[tokio::test]
async fn secrets_come_from_files() {
    let world = World::new();
    let receiver = Receiver::start(&[]).await;
    let key = world.dir.path().join("key");
    let text = format!(
        "[[canary.webhook]]\nurl = \"http://127.0.0.1:{}/\"\nsecret_file = {key:?}\n",
        receiver.port
    );
    let start = || {
        world
            .builder()
            .config(HostConfig::parse(&text, "mortise.toml").unwrap())
            .start()
    };
    for content in [None, Some("  \n")] {
        if let Some(content) = content {
            std::fs::write(&key, content).unwrap();
        }
        let error = start().await.unwrap_err();
        assert!(error.to_string().contains("the secret of a webhook"), "{error}");
    }
    std::fs::write(&key, "s3cret\n").unwrap();
    let host = start().await.unwrap();
    world.load(&host, "echo", "1.0.0").await;
    let (folder, _) = world.package("echo", "1.1.0", "");
    host.start_canary("uid:1", CanaryRequest::new(request(&folder)))
        .await
        .unwrap();
    until("it is told", || !receiver.got().is_empty()).await;
    let got = receiver.got().remove(0);
    let (time, hex) = got
        .header("mortise-signature")
        .strip_prefix("t=")
        .unwrap()
        .split_once(",v1=")
        .unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(b"s3cret").unwrap();
    mac.update(format!("{time}.").as_bytes());
    mac.update(&got.body);
    assert_eq!(
        hex,
        mac.finalize()
            .into_bytes()
            .iter()
            .map(|it| format!("{it:02x}"))
            .collect::<String>()
    );
}

/// What a receiver says is read for the log, and a receiver may say anything, for as long as it likes.
#[tokio::test]
async fn of_an_answer_without_an_end_only_the_beginning_is_read() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move { tell.send(answer_without_end(stream).await) });
        }
    });
    let mut webhook = Webhook::new(format!("http://127.0.0.1:{port}/"), WebhookForm::Json);
    // Longer than the test may take: it is not the clock that ends the reading.
    webhook.retry.timeout = Duration::from_secs(3600);
    let _host = two_decisions(&world, vec![webhook]).await;
    for decision in ["start", "abort"] {
        let written = tokio::time::timeout(Duration::from_secs(60), told.recv())
            .await
            .unwrap_or_else(|_| panic!("the answer to {decision} is read without an end"))
            .unwrap();
        // What the sockets and their readers hold between them is a few MiB at most.
        assert!(written < 64 << 20, "{decision}: {written} bytes were taken");
    }
}

/// Refuses the request, and speaks until the other side hangs up; how many bytes that took.
async fn answer_without_end(mut stream: TcpStream) -> usize {
    let mut written = 0;
    let mut part = b"10000\r\n".to_vec();
    part.extend(std::iter::repeat_n(b'x', 0x1_0000));
    part.extend(b"\r\n");
    let head = b"HTTP/1.1 400 no\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut next = stream.write_all(head).await;
    while next.is_ok() {
        next = stream.write_all(&part).await;
        written += part.len();
    }
    written
}
