//! Which calls go where, and who said so: the rules that the table of methods is built with, and how they change while the host runs.
//!
//! Routes come from four sides. Operators set theirs one by one, the configuration names its own (a reload replaces them), the program may bring some
//! ([`crate::HostBuilder::rule`]), and a canary has its own while it runs. They are tried in this order, so an operator's word goes before the
//! file's, and a user that a route sends somewhere stays there during a canary.
//!
//! Invariants
//! - A1: a change is on record, with who and what, before a call can see it; a change that changes nothing is none.
//! - A2: the table is replaced as a whole, so a call sees all of a change or nothing of it.
//! - A3: what operators set is on the disk before it is answered, in a host that remembers loads, and is there again in its next life.
//! - A4: changes come one after another, whoever asks.

use std::{collections::BTreeMap, fmt, sync::PoisonError};

use mortise_manifest::{HeaderTest, RouteEntry};
use mortise_routing::{Explanation, HeaderMatch, Method, Pattern, Rule, Scope, Share};
use mortise_runtime::Refusal;
use mortise_wire::Header;
use serde::{Deserialize, Serialize};

use crate::{Host, HostError, HostErrorKind, history, host::Shared};

/// The name under which changes of routes are in the history. No plugin can have it.
pub const ROUTES_HISTORY: &str = "@routes";
/// Where the host keeps what is its own; no plugin can have this name.
pub(crate) const HOST_KEYSPACE: &str = "@host";
/// Key of the operators' routes there.
const KEY: &str = "routes";
/// Version of [`Kept`]'s meaning.
const FORMAT: u32 = 1;
/// Most routes that one side may have.
const ROUTES_MAX: usize = 1000;

/// Who made a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteOrigin {
    /// An operator, while the host ran.
    Operator,
    /// `mortise.toml`.
    Configuration,
    /// The program that the host is part of.
    Program,
    /// A canary that runs.
    Canary,
}

/// One route, as it is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteInfo {
    /// Its name.
    pub name: String,
    /// Who made it.
    pub origin: RouteOrigin,
    /// What it does, in words.
    pub does: String,
    /// As it was written, for those that were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteEntry>,
}

/// All routes, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Routes {
    /// Counts the changes of this life of the host.
    pub revision: u64,
    /// The routes.
    pub routes: Vec<RouteInfo>,
}

/// What the table is built with.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    revision: u64,
    operators: Vec<RouteEntry>,
    configured: Vec<RouteEntry>,
    program: Vec<Rule>,
    /// By the plugin's name.
    canaries: BTreeMap<String, Vec<Rule>>,
    rules: Vec<Rule>,
}

/// What is kept of the operators' routes.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    format: u32,
    routes: Vec<RouteEntry>,
}

// === impl Host ===

impl Host {
    /// All routes, in the order in which they are tried.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.shared().routing().info()
    }

    /// Replaces all routes that operators set. `actor` is who asks, for the history: `uid:1000`.
    ///
    /// # Errors
    /// `Refused` with every fault, `Conflict` if a canary's plugin would be split twice, `Storage` if it cannot be written down. Nothing has changed
    /// then.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was begun.
    pub async fn set_routes(&self, actor: &str, routes: Vec<RouteEntry>) -> Result<Routes, HostError> {
        self.change_routes(actor, move |_| Ok(routes)).await
    }

    /// Sets one route: in place of the operators' own of that name, else after the others, or before them.
    ///
    /// # Errors
    /// As [`Host::set_routes`].
    ///
    /// # Cancel safety
    /// As [`Host::set_routes`].
    pub async fn set_route(&self, actor: &str, route: RouteEntry, first: bool) -> Result<Routes, HostError> {
        let change = move |mut all: Vec<RouteEntry>| {
            let known = all.iter().position(|it| it.name == route.name);
            match known {
                Some(at) if !first => all[at] = route,
                known => {
                    known.map(|at| all.remove(at));
                    all.insert(if first { 0 } else { all.len() }, route);
                }
            }
            Ok(all)
        };
        self.change_routes(actor, change).await
    }

    /// Removes a route that an operator set.
    ///
    /// # Errors
    /// `NotFound` if there is none, also if it is somebody else's; else as [`Host::set_routes`].
    ///
    /// # Cancel safety
    /// As [`Host::set_routes`].
    pub async fn remove_route(&self, actor: &str, name: &str) -> Result<Routes, HostError> {
        let routes = self.routes();
        let not_found = || {
            let error = HostError::new(
                HostErrorKind::NotFound,
                format!("no operator set a route `{name}`"),
            );
            match routes
                .routes
                .iter()
                .find(|it| it.name == name)
                .map(|it| it.origin)
            {
                Some(RouteOrigin::Configuration) => {
                    error.with_hint("it is the configuration's: take it out of mortise.toml and reload")
                }
                Some(RouteOrigin::Canary) => error.with_hint("it is a canary's: abort or promote that"),
                _ => error.with_hint("`mortise route list` shows what there is"),
            }
        };
        let change = |mut all: Vec<RouteEntry>| match all.iter().position(|it| it.name == name) {
            None => Err(not_found()),
            Some(at) => {
                all.remove(at);
                Ok(all)
            }
        };
        self.change_routes(actor, change).await
    }

    /// Replaces the routes that the configuration names.
    ///
    /// # Errors
    /// As [`Host::set_routes`].
    ///
    /// # Cancel safety
    /// As [`Host::set_routes`].
    pub async fn configure_routes(&self, actor: &str, routes: Vec<RouteEntry>) -> Result<Routes, HostError> {
        check(&routes)?;
        let shared = self.shared();
        let _one_at_a_time = shared.changing_routes.lock().await;
        let change = |routing: &mut Routing| routing.configured = routes;
        shared.apply_routes(actor, None, change).await?;
        Ok(self.routes())
    }

    /// Who would answer a call, and why: what [`Host::resolve`] does, with every step written down.
    #[must_use]
    pub fn explain_route(&self, target: &str, headers: &[Header]) -> Explanation {
        self.shared().table.load().explain(target, headers)
    }

    /// The headers that any route looks at, in lower case: an edge hands them to [`Host::resolve`] beside those that it hands on anyway.
    pub fn for_each_routed_header(&self, visit: impl FnMut(&str)) {
        let table = self.shared().table.load();
        table.routed_headers().map(|it| &**it).for_each(visit);
    }

    async fn change_routes(
        &self,
        actor: &str,
        change: impl FnOnce(Vec<RouteEntry>) -> Result<Vec<RouteEntry>, HostError>,
    ) -> Result<Routes, HostError> {
        let shared = self.shared();
        let _one_at_a_time = shared.changing_routes.lock().await;
        let before = shared.routing().operators.clone();
        let routes = change(before)?;
        check(&routes)?;
        let kept = shared.parts.remembers.then(|| routes.clone());
        shared
            .apply_routes(actor, kept, |routing| routing.operators = routes)
            .await?;
        Ok(self.routes())
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn routing(&self) -> std::sync::MutexGuard<'_, Routing> {
        self.routing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What operators set in the host's earlier lives.
    pub(crate) async fn recall_routes(&self) -> Result<(), HostError> {
        let Some(text) = self.own_value(KEY).await? else {
            return Ok(());
        };
        match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) if kept.format == FORMAT => {
                if let Err(error) = check(&kept.routes) {
                    tracing::warn!(target: "mortise::life", %error, "the routes that operators had set are left out");
                    return Ok(());
                }
                // No change: they were written down when they were set.
                let mut routing = self.routing();
                routing.operators = kept.routes;
                routing.combine();
                Ok(())
            }
            Ok(_) => {
                tracing::warn!(target: "mortise::life", "a newer host kept the routes that operators had set; they are left out");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(target: "mortise::life", %error, "the routes that operators had set do not read; they are left out");
                Ok(())
            }
        }
    }

    /// Sets the rules of a canary; none takes them away. The caller has written down why.
    pub(crate) fn set_canary_rules(&self, plugin: &str, rules: Vec<Rule>) {
        {
            let mut routing = self.routing();
            if rules.is_empty() {
                routing.canaries.remove(plugin);
            } else {
                routing.canaries.insert(plugin.to_owned(), rules);
            }
            routing.revision += 1;
            routing.combine();
        }
        self.rebuild_table();
    }

    /// The route that would leave a canary of `plugin` nothing to decide.
    pub(crate) fn route_that_splits(&self, plugin: &str) -> Option<String> {
        let routing = self.routing();
        let all = routing.rules.iter().filter(|it| it.headers.is_empty());
        let of_plugin = |rule: &&Rule| matches!(&rule.scope, Scope::Plugin(name) if **name == *plugin);
        let found = all
            .filter(|it| !routing.canaries.values().flatten().any(|own| own == *it))
            .find(of_plugin);
        found.map(|it| it.name.to_string())
    }

    /// Writes a change down (A1), and what is to be there again in the host's next life (A3), then makes it.
    async fn apply_routes(
        &self,
        actor: &str,
        kept: Option<Vec<RouteEntry>>,
        change: impl FnOnce(&mut Routing),
    ) -> Result<(), HostError> {
        let (before, after, new) = {
            let routing = self.routing();
            let mut new = Routing {
                revision: routing.revision + 1,
                operators: routing.operators.clone(),
                configured: routing.configured.clone(),
                program: routing.program.clone(),
                canaries: routing.canaries.clone(),
                rules: Vec::new(),
            };
            change(&mut new);
            new.combine();
            let (before, after) = (routing.lines(), new.lines());
            if before == after {
                return Ok(());
            }
            (before, after, new)
        };
        if let Some(plugin) = new.split_twice() {
            let what =
                format!("plugin `{plugin}` has a canary, and a route would split its calls a second time");
            return Err(HostError::new(HostErrorKind::Conflict, what)
                .with_plugin(plugin)
                .with_hint("give the route a header, or wait for the canary's end"));
        }
        let recorded = history::begin_routes(self, actor, &before, &after).await?;
        if let Some(kept) = kept
            && let Err(error) = self.keep_routes(kept).await
        {
            return recorded.conclude(self, Some(&error)).await.and(Err(error));
        }
        {
            let mut routing = self.routing();
            // A canary may have moved in between; its rules are not this change's.
            let canaries = std::mem::take(&mut routing.canaries);
            *routing = Routing {
                revision: routing.revision + 1,
                canaries,
                ..new
            };
            routing.combine();
        }
        self.rebuild_table();
        tracing::info!(target: "mortise::life", actor, "routes changed; `mortise history {ROUTES_HISTORY}` shows what");
        recorded.conclude(self, None).await
    }

    async fn keep_routes(&self, routes: Vec<RouteEntry>) -> Result<(), HostError> {
        let kept = Kept {
            format: FORMAT,
            routes,
        };
        let text = serde_json::to_vec(&kept).expect("strings and numbers serialize");
        self.set_own_value(KEY, text).await
    }

    /// What the host keeps for itself under this key.
    pub(crate) async fn own_value(&self, key: impl Into<String>) -> Result<Option<bytes::Bytes>, HostError> {
        let (keys, key) = (self.parts.own.clone(), key.into());
        self.with_journal(move |_| keys.get(&key)).await
    }

    /// Keeps something for the host's next life; on the disk when this returns.
    pub(crate) async fn set_own_value(
        &self,
        key: impl Into<String>,
        value: Vec<u8>,
    ) -> Result<(), HostError> {
        let (keys, key) = (self.parts.own.clone(), key.into());
        self.with_journal(move |_| keys.set(&key, &value)).await
    }

    /// Forgets it.
    pub(crate) async fn delete_own_value(&self, key: String) -> Result<(), HostError> {
        let keys = self.parts.own.clone();
        self.with_journal(move |_| keys.delete(&key)).await.map(drop)
    }

    /// The keys that begin with `prefix`.
    pub(crate) async fn own_keys(&self, prefix: &'static str) -> Result<Vec<String>, HostError> {
        let keys = self.parts.own.clone();
        self.with_journal(move |_| keys.list(prefix, u32::MAX)).await
    }
}

// === impl Routing ===

impl Routing {
    pub(crate) fn new(program: Vec<Rule>, configured: Vec<RouteEntry>) -> Self {
        let mut routing = Self {
            program,
            configured,
            ..Self::default()
        };
        routing.combine();
        routing
    }

    /// All rules, in the order in which they are tried.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn combine(&mut self) {
        let written = self.operators.iter().chain(&self.configured);
        self.rules = written
            .filter_map(|it| rule(it).ok())
            .chain(self.program.iter().cloned())
            .chain(self.canaries.values().flatten().cloned())
            .collect();
    }

    fn info(&self) -> Routes {
        let written = |origin| {
            move |it: &RouteEntry| RouteInfo {
                name: it.name.clone(),
                origin,
                does: rule(it).map_or_else(|error| error.to_string(), |it| it.to_string()),
                route: Some(it.clone()),
            }
        };
        let made = |origin| {
            move |it: &Rule| RouteInfo {
                name: it.name.to_string(),
                origin,
                does: it.to_string(),
                route: None,
            }
        };
        let operators = self.operators.iter().map(written(RouteOrigin::Operator));
        let configured = self.configured.iter().map(written(RouteOrigin::Configuration));
        let program = self.program.iter().map(made(RouteOrigin::Program));
        let canaries = self.canaries.values().flatten().map(made(RouteOrigin::Canary));
        Routes {
            revision: self.revision,
            routes: operators
                .chain(configured)
                .chain(program)
                .chain(canaries)
                .collect(),
        }
    }

    /// A plugin with a canary whose calls a route without headers splits as well.
    fn split_twice(&self) -> Option<&str> {
        let others = self.operators.iter().chain(&self.configured);
        let splits = |it: &&RouteEntry| it.headers.is_empty();
        let mut plugins = others.filter(splits).filter_map(|it| it.plugin.as_deref());
        plugins.find(|it| self.canaries.contains_key(*it))
    }

    /// One line per route, in the order in which they are tried.
    fn lines(&self) -> Vec<(String, String)> {
        let info = self.info().routes.into_iter();
        info.map(|it| (it.name, it.does)).collect()
    }
}

impl fmt::Display for RouteOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "operator",
            Self::Configuration => "configuration",
            Self::Program => "program",
            Self::Canary => "canary",
        })
    }
}

// === checks ===

/// Every fault of every route.
fn check(routes: &[RouteEntry]) -> Result<(), HostError> {
    let refusal = |route: &RouteEntry, why: String, hint: Option<String>| Refusal {
        what: format!("route `{}`", route.name),
        why,
        hint: hint.unwrap_or_default(),
    };
    let mut reasons = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let faults = route.faults().into_iter();
        reasons.extend(faults.map(|it| refusal(route, it.to_string(), it.hint)));
        if routes[..index].iter().any(|it| it.name == route.name) {
            reasons.push(refusal(
                route,
                "there is already one of that name".to_owned(),
                None,
            ));
        }
    }
    if routes.len() > ROUTES_MAX {
        reasons.push(Refusal {
            what: "routes".to_owned(),
            why: format!("{} routes, and the most are {ROUTES_MAX}", routes.len()),
            hint: "one pattern may do the work of many".to_owned(),
        });
    }
    let Some(first) = reasons.first() else {
        return Ok(());
    };
    let error = HostError::new(
        HostErrorKind::Refused,
        format!("the routes were refused: {first}"),
    );
    let hint = first.hint.clone();
    Err(error.with_hint(hint).with_reasons(reasons))
}

/// What a route is to the table.
fn rule(route: &RouteEntry) -> Result<Rule, mortise_routing::PatternError> {
    let scope = match (&route.service, &route.method, &route.plugin) {
        (Some(service), Some(method), _) => Scope::Method(Method::new(service.as_str(), method.as_str())),
        (Some(service), None, _) => Scope::Service(service.as_str().into()),
        (None, _, Some(plugin)) => Scope::Plugin(plugin.as_str().into()),
        (None, _, None) => Scope::All,
    };
    let headers = route.headers.iter().map(|(name, wanted)| {
        let name = name.as_str().into();
        let HeaderTest {
            exact,
            prefix,
            regex,
            present,
            not,
        } = wanted.test();
        let mut test = match (exact, prefix, regex) {
            (Some(value), _, _) => HeaderMatch::Exact {
                name,
                value: value.into(),
            },
            (None, Some(prefix), _) => HeaderMatch::Prefix {
                name,
                prefix: prefix.into(),
            },
            (None, None, Some(regex)) => HeaderMatch::Regex {
                name,
                pattern: Pattern::new(&regex)?,
            },
            (None, None, None) => HeaderMatch::Present { name },
        };
        if not != (present == Some(false)) {
            test = HeaderMatch::Not(Box::new(test));
        }
        Ok(test)
    });
    let share = |it: mortise_manifest::RouteShare| Share {
        provider: it.plugin.into(),
        version: it.version,
        weight: it.weight,
    };
    Ok(Rule {
        name: route.name.as_str().into(),
        scope,
        headers: headers.collect::<Result<_, _>>()?,
        to: route.shares().into_iter().map(share).collect(),
        sticky: route.sticky.as_deref().map(Into::into),
    })
}
