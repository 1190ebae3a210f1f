//! Starts plugins as a host would.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use mortise_goplugin::{
    AddressPolicy, CallHeaders, ConnectOptions, Connection, Cookie, Handshake, HandshakeError, Identity,
    LogEvent, LogParser, Offer, OutputChunk, PeerCheck, Scanner, handshake::Agreed,
};
use prost::Message;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};
use tonic::Status;

use crate::{
    go,
    messages::{DOUBLE, KvValue, PRINT_KV, PrintKvRequest, TestRequest, TestResponse},
};

/// Longer than anything here takes. Nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The plugin by this crate.
pub(crate) fn pong() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let target = here.parent().and_then(Path::parent).unwrap();
    let path = target.join("examples/goplugin-pong");
    assert!(path.exists(), "{} is built with this test", path.display());
    path
}

/// That plugin, and a Go plugin that knows as much where there is one.
pub(crate) fn plugins() -> Vec<PathBuf> {
    let go = go::is_recent().then(|| go::program("plugins/go-kv"));
    [Some(pong()), go.flatten()].into_iter().flatten().collect()
}

/// Plain and TLS, multiplexed or not.
pub(crate) fn all_ways() -> [How; 4] {
    [(false, false), (false, true), (true, false), (true, true)].map(|(mtls, multiplex)| How {
        mtls,
        multiplex,
        ..How::default()
    })
}

/// A process's state letter; `None` once it is gone.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Waits until a process that is not our child has ended. A zombie has; whoever inherits it may take its time to look.
pub(crate) fn wait_for_end(pid: i32) {
    let begun = std::time::Instant::now();
    while state(pid).is_some_and(|state| state != 'Z') {
        assert!(begun.elapsed() < PATIENCE, "process {pid} outlived its host");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a plugin is started.
#[derive(Clone, Debug)]
pub(crate) struct How {
    pub(crate) versions: Vec<u32>,
    pub(crate) mtls: bool,
    pub(crate) multiplex: bool,
    pub(crate) extra_env: Vec<(&'static str, String)>,
}

impl Default for How {
    fn default() -> Self {
        Self {
            versions: vec![1, 2, 3],
            mtls: false,
            multiplex: false,
            extra_env: Vec::new(),
        }
    }
}

/// A running plugin.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) connection: Arc<Connection>,
    pub(crate) agreed: Agreed,
    pub(crate) stray: Vec<String>,
    pub(crate) logs: Arc<Mutex<Vec<LogEvent>>>,
    pub(crate) output: mpsc::Receiver<OutputChunk>,
    pub(crate) dir: tempfile::TempDir,
}

/// What a plugin answered.
pub(crate) struct Answered {
    child: Child,
    offer: Offer,
    identity: Option<Identity>,
    logs: Arc<Mutex<Vec<LogEvent>>>,
    stray: Vec<String>,
    dir: tempfile::TempDir,
    pub(crate) handshake: Handshake,
}

/// Starts a plugin and waits for its handshake.
pub(crate) async fn invite(program: &Path, how: &How) -> Result<Answered, HandshakeError> {
    let dir = tempfile::tempdir().unwrap();
    let identity = how.mtls.then(|| Identity::generate().unwrap());
    let offer = Offer {
        cookie: Cookie::parse("BASIC_PLUGIN=hello").unwrap(),
        versions: how.versions.clone(),
        certificate_pem: identity.as_ref().map(|it| it.pem().to_owned()),
        multiplex: how.multiplex,
        directory: dir.path().to_owned(),
    };
    let mut child = Command::new(program)
        .env_clear()
        .envs(offer.environment())
        .envs(how.extra_env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let logs = Arc::<Mutex<Vec<LogEvent>>>::default();
    let (mut stderr, to) = (child.stderr.take().unwrap(), logs.clone());
    tokio::spawn(async move {
        let (mut parser, mut chunk) = (LogParser::default(), vec![0; 4096]);
        while let Ok(read) = stderr.read(&mut chunk).await
            && read > 0
        {
            parser.push(&chunk[..read], |event| to.lock().unwrap().push(event));
        }
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut scanner = Scanner::default();
    let mut chunk = vec![0; 4096];
    let handshake = timeout(PATIENCE, async {
        loop {
            let read = stdout.read(&mut chunk).await.unwrap();
            assert!(
                read > 0,
                "the plugin ended before its handshake: {:?}",
                logs.lock().unwrap()
            );
            if let Some((handshake, _)) = scanner.push(&chunk[..read])? {
                return Ok(handshake);
            }
        }
    });
    let handshake = handshake.await.unwrap()?;
    tokio::spawn(async move { while stdout.read(&mut chunk).await.is_ok_and(|read| read > 0) {} });
    Ok(Answered {
        child,
        offer,
        identity,
        logs,
        stray: scanner.take_stray(),
        dir,
        handshake,
    })
}

/// Starts a plugin and connects.
pub(crate) async fn start(program: &Path, how: &How) -> Result<Running, HandshakeError> {
    let answered = invite(program, how).await?;
    let agreed = answered.offer.accept(answered.handshake.clone())?;
    let (output, chunks) = mpsc::channel(16);
    let options = ConnectOptions {
        policy: AddressPolicy {
            directory: Some(answered.dir.path().to_owned()),
            peer: Some(PeerCheck::group(answered.child.id().unwrap())),
            tcp: answered.identity.is_some(),
        },
        identity: answered.identity,
        directory: answered.dir.path().to_owned(),
        output: Some(output),
    };
    let connection = timeout(PATIENCE, Connection::open(&agreed, options))
        .await
        .unwrap()
        .unwrap();
    Ok(Running {
        child: answered.child,
        connection: connection.into(),
        agreed,
        stray: answered.stray,
        logs: answered.logs,
        output: chunks,
        dir: answered.dir,
    })
}

impl Running {
    pub(crate) async fn call(&self, method: &str, request: &impl Message) -> Result<Bytes, Status> {
        self.connection
            .call(
                &format!("/{method}"),
                &CallHeaders::default(),
                request.encode_to_vec().into(),
            )
            .await
    }

    pub(crate) async fn double(&self, input: i32) -> Result<i32, Status> {
        let reply = self.call(DOUBLE, &TestRequest { input }).await?;
        Ok(TestResponse::decode(reply).unwrap().output)
    }

    pub(crate) async fn print_kv(&self, key: &str, value: KvValue) -> Result<(), Status> {
        let request = PrintKvRequest {
            key: key.to_owned(),
            value: Some(value),
        };
        self.call(PRINT_KV, &request).await.map(drop)
    }

    /// Shuts it down and gives its exit status.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.connection.shutdown().await;
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }

    pub(crate) async fn wait_for_log(&self, text: &str) -> LogEvent {
        timeout(PATIENCE, async {
            loop {
                let found = self
                    .logs
                    .lock()
                    .unwrap()
                    .iter()
                    .find(|event| event.message.contains(text))
                    .cloned();
                if let Some(event) = found {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no log line with {text:?}: {:?}", self.logs.lock().unwrap()))
    }
}
