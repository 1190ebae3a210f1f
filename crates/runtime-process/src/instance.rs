//! One running plugin, as the host sees it, whatever is spoken with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mortise_jail::Meter;
use mortise_runtime::{
    BoxFuture, Call, CallContext, CallError, Configure, Enclosure, EndCause, Instance, InstanceId,
    MethodIndex, ReservedCalls, ReservedMethods, State, StopReport, StreamCall, StreamHandle, Usage,
};
use mortise_wire::Health;
use rustix::process::Pid;
use tokio::sync::{mpsc, watch};

use crate::{
    ProcessConfig,
    dialect::{Conversation, Plugin},
    heard, memory,
    output::Tail,
    supervise::{Command, Supervisor},
    watched::Watched,
};

/// One running plugin.
pub(crate) struct ProcessInstance<P> {
    id: InstanceId,
    reserved: ReservedMethods,
    pid: Pid,
    plugin: Arc<P>,
    enclosure: Enclosure,
    meter: Meter,
    tail: Tail,
    /// The process is reaped, or about to be: its id means nothing any more.
    gone: Arc<AtomicBool>,
    /// Dropping it tells the supervisor to end the process.
    commands: mpsc::UnboundedSender<Command>,
    ended: watch::Receiver<Option<EndCause>>,
    stopped: watch::Receiver<Option<StopReport>>,
}

impl<P: Plugin> ProcessInstance<P> {
    /// Hands a plugin that is ready to a supervisor of its own.
    pub(crate) fn supervised<C: Conversation<Plugin = P>>(
        id: InstanceId,
        reserved: ReservedMethods,
        conversation: C,
        child: Watched,
        config: Arc<ProcessConfig>,
    ) -> Self {
        let (commands, asked) = mpsc::unbounded_channel();
        let (tell_ended, ended) = watch::channel(None);
        let (tell_stopped, stopped) = watch::channel(None);
        let gone = Arc::new(AtomicBool::new(false));
        let instance = Self {
            id,
            reserved,
            pid: child.process.pid(),
            plugin: conversation.plugin().clone(),
            enclosure: heard::enclosure(&child.process.enclosure()),
            meter: child.meter.clone(),
            tail: child.tail.clone(),
            gone: gone.clone(),
            commands,
            ended,
            stopped,
        };
        let supervisor = Supervisor {
            conversation,
            child,
            config,
            commands: asked,
            gone,
            ended: tell_ended,
            stopped: tell_stopped,
        };
        tokio::spawn(supervisor.run());
        instance
    }
}

impl<P: Plugin> Call for ProcessInstance<P> {
    fn call<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.plugin.call(cx, method, payload))
    }
}

impl<P: Plugin> ReservedCalls for ProcessInstance<P> {
    fn reserved(&self) -> &ReservedMethods {
        &self.reserved
    }
}

impl<P: Plugin> StreamCall for ProcessInstance<P> {
    fn open<'a>(
        &'a self,
        cx: &'a CallContext,
        method: MethodIndex,
    ) -> BoxFuture<'a, Result<StreamHandle, CallError>> {
        Box::pin(self.plugin.open(cx, method))
    }
}

impl<P: Plugin> Instance for ProcessInstance<P> {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn call(&self) -> Option<&dyn Call> {
        Some(self)
    }

    fn stream(&self) -> Option<&dyn StreamCall> {
        Some(self)
    }

    fn state(&self) -> Option<&dyn State> {
        (!self.reserved.is_empty()).then_some(self)
    }

    fn configure(&self) -> Option<&dyn Configure> {
        self.reserved.configure().then_some(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, CallError>> {
        Box::pin(self.plugin.health())
    }

    fn ended(&self) -> BoxFuture<'_, EndCause> {
        let mut ended = self.ended.clone();
        Box::pin(async move {
            match ended.wait_for(Option::is_some).await.map(|cause| cause.clone()) {
                Ok(Some(cause)) => cause,
                // It was stopped, so it never ends by itself.
                _ => std::future::pending().await,
            }
        })
    }

    fn usage(&self) -> Usage {
        if self.gone.load(Ordering::Acquire) {
            return Usage::default();
        }
        let counted = self.meter.read();
        Usage {
            memory_bytes: memory::resident_bytes(self.pid),
            pid: u32::try_from(self.pid.as_raw_nonzero().get()).ok(),
            lane: self.plugin.lane(),
            cpu_time: counted.cpu_time,
            throttled_periods: counted.throttled_periods,
            throttled_time: counted.throttled_time,
            // One of them is the launcher's.
            tasks: counted.tasks.map(|it| it.saturating_sub(1)),
            ..Usage::default()
        }
    }

    fn enclosure(&self) -> Option<Enclosure> {
        Some(self.enclosure.clone())
    }

    fn last_output(&self) -> Option<String> {
        Some(self.tail.text()).filter(|text| !text.is_empty())
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, StopReport> {
        let mut stopped = self.stopped.clone();
        // If the supervisor is gone, the report is there.
        let _ = self.commands.send(Command::Stop { grace });
        Box::pin(async move {
            match stopped
                .wait_for(Option::is_some)
                .await
                .map(|report| report.clone())
            {
                Ok(Some(report)) => report,
                _ => StopReport {
                    forced: Some("the executor that supervised it ended".to_owned()),
                    left: None,
                },
            }
        })
    }
}
