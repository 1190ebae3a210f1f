//! `mortise run`: a host for the length of one call.

use std::time::{Duration, Instant};

use mortise::{
    LoadRequest, Source,
    manifest::{Grant, Jail, LimitsOverride, Permissions, RuntimeName},
};

use crate::{
    args::{self, Run},
    commands::{call, remote},
    exit::{Failure, Fault},
    output::Output,
    runtimes,
};

pub(crate) fn run(args: Run, output: &Output) -> anyhow::Result<()> {
    let request = load_request(&args)?;
    let params = call::json(&args.payload)?;
    let reply = super::block_on(async {
        let host = runtimes::temporary_host().await?;
        let reply = async {
            let plugin = host
                .load(request)
                .await
                .map_err(|error| Failure::of_host(&error))?;
            let runtime = plugin.runtime.map(RuntimeName::as_str);
            remote::warn_of_jail(&args.terms, &plugin.name, runtime);
            // A service in full is fine here: nobody else can provide it.
            let in_full = args.method.contains('/');
            let target = if in_full {
                args.method.clone()
            } else {
                call::target(&plugin.name, &args.method)
            };
            let deadline = args
                .payload
                .timeout_ms
                .map(|ms| Instant::now() + Duration::from_millis(ms));
            let reply = mortise_gateway::call_json(&host, &target, params.get(), deadline).await;
            Ok(reply.map_err(|error| Failure::of_rpc(&error))?)
        }
        .await;
        host.shutdown().await;
        reply
    })?;
    output.raw(format!("{reply}\n").as_bytes())
}

fn load_request(args: &Run) -> Result<LoadRequest, Failure> {
    let runtime = args.terms.runtime.as_deref().map(|name| {
        RuntimeName::parse(name).ok_or_else(|| {
            let known = RuntimeName::ALL.map(RuntimeName::as_str).join(", ");
            Failure::usage(
                Fault::new(format!("there is no runtime `{name}`")).hint(format!("choose one of {known}")),
            )
        })
    });
    let grant = remote::grant(&args.terms)?;
    let limits = LimitsOverride {
        memory_bytes_max: args.terms.memory_mib.map(|mib| mib.saturating_mul(1 << 20)),
        deadline: args.terms.deadline_ms.map(Duration::from_millis),
        concurrency: args.terms.concurrency,
        cpu_percent: args.terms.cpu_percent,
        ..LimitsOverride::default()
    };
    Ok(LoadRequest {
        runtime: runtime.transpose()?,
        grant: Grant {
            permissions: Permissions {
                net_connect: grant.net_connect,
                fs_read: grant.fs_read,
                fs_write: grant.fs_write,
                kv: grant.kv,
                events_publish: grant.events_publish,
                events_subscribe: grant.events_subscribe,
            },
            jail: match args.terms.jail {
                args::Jail::On => Jail::On,
                args::Jail::Off => Jail::Off,
            },
            trust_adapter: args.terms.trust_adapter,
        },
        limits,
        config_json: remote::plugin_config(&args.terms)?.map(|it| it.get().to_owned()),
        ..LoadRequest::new(Source::parse(&args.plugin))
    })
}
