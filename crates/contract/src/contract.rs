//! A linked contract and its methods.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor, MethodDescriptor};

use crate::{
    ContractError, FieldOptions, MethodOptions, NameError, Target, defaults, hash,
    raw::{self, OptionTable},
};

/// The most fields that all methods together reach. A signature walks every type it can reach, so a small set can describe much work.
const FIELDS_HASHED_MAX: usize = 1 << 20;

/// The services of a `FileDescriptorSet` that a plugin provides or a caller needs, with their hashes.
#[derive(Clone)]
pub struct Contract {
    pool: DescriptorPool,
    bytes: Bytes,
    services: Vec<String>,
    /// Sorted by service, then name: a method's index here is its number on every boundary.
    methods: Vec<Method>,
    /// Methods that the set declares and the plugin does not provide; steps of a chain of adapters only.
    unprovided: Vec<(Target, MethodOptions)>,
    options: Arc<OptionTable>,
    /// Encoded `(mortise.default)`s by the field's full name.
    defaults: Arc<HashMap<String, Bytes>>,
    hash: [u8; 32],
    fingerprint: [u8; 32],
}

/// One method of a contract.
#[derive(Clone)]
pub struct Method {
    descriptor: MethodDescriptor,
    service: String,
    options: MethodOptions,
    wire_hash: [u8; 32],
    full_hash: [u8; 32],
}

// === impl Contract ===

impl Contract {
    /// Reads an encoded `google.protobuf.FileDescriptorSet` that holds every imported file.
    ///
    /// `provides` names services in full (`package.Service`). Empty means every service of the set but those of `google/*`,
    /// `mortise/options.proto` and `mortise/host/*`: a contract that imports what the host offers does not provide it.
    ///
    /// Safe for bytes that a plugin brought: size, number of declarations and length of names are bounded, and what would make the
    /// linker panic is refused. The files `google/protobuf/*.proto` are always the linker's own, whatever the set says.
    ///
    /// # Errors
    /// If the bytes are no such set, are too many, or do not declare a provided service.
    pub fn from_descriptor_set(bytes: &[u8], provides: &[String]) -> Result<Self, ContractError> {
        let options = raw::inspect(bytes)?;
        let pool = link(bytes)?;
        let defaults = encoded_defaults(&pool, &options)?;
        Self::over(
            pool,
            Bytes::copy_from_slice(bytes),
            options.into(),
            defaults.into(),
            provides,
        )
    }

    /// Other services of the same set, without linking it anew: what a plugin calls rather than what it provides. `provides` is as above.
    ///
    /// # Errors
    /// If the set does not declare one of them.
    pub fn of_services(&self, provides: &[String]) -> Result<Self, ContractError> {
        Self::over(
            self.pool.clone(),
            self.bytes.clone(),
            self.options.clone(),
            self.defaults.clone(),
            provides,
        )
    }

    fn over(
        pool: DescriptorPool,
        bytes: Bytes,
        options: Arc<OptionTable>,
        defaults: Arc<HashMap<String, Bytes>>,
        provides: &[String],
    ) -> Result<Self, ContractError> {
        let services = provided(&pool, provides)?;
        let mut fields_hashed = 0;
        let mut methods = Vec::new();
        let mut unprovided = Vec::new();
        for service in pool.services() {
            let is_provided = services
                .binary_search_by(|it| it.as_str().cmp(service.full_name()))
                .is_ok();
            for descriptor in service.methods() {
                let target = Target {
                    service: service.full_name().to_owned(),
                    method: descriptor.name().to_owned(),
                    version: None,
                };
                let method_options = options
                    .methods
                    .get(&target.to_string())
                    .cloned()
                    .unwrap_or_default();
                if is_provided {
                    fields_hashed += hash::reachable_fields(&descriptor);
                    raw::within(
                        "fields reachable from its methods, summed",
                        fields_hashed,
                        FIELDS_HASHED_MAX,
                    )?;
                    methods.push(Method {
                        service: target.service,
                        wire_hash: hash::wire_hash(&descriptor),
                        full_hash: hash::full_hash(&descriptor, &method_options, &options),
                        options: method_options,
                        descriptor,
                    });
                } else {
                    unprovided.push((target, method_options));
                }
            }
        }
        methods.sort_by(|a, b| a.key().cmp(&b.key()));
        let hash = hash::contract_hash(methods.iter().map(|method| method.full_hash).collect());
        let fingerprint = hash::fingerprint(&bytes, &services);
        Ok(Self {
            pool,
            bytes,
            services,
            methods,
            unprovided,
            options,
            defaults,
            hash,
            fingerprint,
        })
    }

    /// The same, shared with whoever holds it: a new version mostly brings the contract of the one it replaces, and linking that anew would be a third of
    /// the time that loading it takes.
    ///
    /// # Errors
    /// As [`Contract::from_descriptor_set`].
    pub fn shared(bytes: &[u8], provides: &[String]) -> Result<Arc<Self>, ContractError> {
        static HELD: Mutex<BTreeMap<[u8; 32], Weak<Contract>>> = Mutex::new(BTreeMap::new());
        let held = || HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let key = hash::fingerprint(bytes, provides);
        if let Some(contract) = held().get(&key).and_then(Weak::upgrade) {
            return Ok(contract);
        }
        let contract = Arc::new(Self::from_descriptor_set(bytes, provides)?);
        let mut held = held();
        held.retain(|_, it| it.strong_count() > 0);
        held.insert(key, Arc::downgrade(&contract));
        Ok(contract)
    }

    /// Links what every contract may import, which is done once in a process and which the first contract would otherwise wait for.
    pub fn prepare() {
        LazyLock::force(&WELL_KNOWN);
    }

    /// BLAKE3 over the sorted full hashes of all provided methods: the identity of what is provided.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Full names of the provided services, sorted.
    #[must_use]
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// The provided methods, sorted by service, then name. A method's index is its number on every boundary.
    #[must_use]
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// The method `name` of `service` (`package.Service`).
    #[must_use]
    pub fn method(&self, service: &str, name: &str) -> Option<&Method> {
        let index = self
            .methods
            .binary_search_by(|method| method.key().cmp(&(service, name)))
            .ok()?;
        Some(&self.methods[index])
    }

    /// The only method called `name` in any provided service.
    ///
    /// # Errors
    /// If there is none or more than one; the error lists what there is.
    pub fn method_by_name(&self, name: &str) -> Result<&Method, NameError> {
        let targets = |methods: &[&Method]| methods.iter().map(|method| method.target()).collect::<Vec<_>>();
        let named: Vec<&Method> = self
            .methods
            .iter()
            .filter(|method| method.name() == name)
            .collect();
        match named.as_slice() {
            [only] => Ok(only),
            [] => Err(NameError::Unknown {
                name: name.to_owned(),
                known: targets(&self.methods.iter().collect::<Vec<_>>()),
            }),
            several => Err(NameError::Ambiguous {
                name: name.to_owned(),
                candidates: targets(several),
            }),
        }
    }

    /// Everything the set declares, linked.
    ///
    /// Read options through [`Method::options`] and [`Contract::field_options`]: `options()` of a descriptor decodes whatever the set
    /// carries and panics if it does not decode.
    #[must_use]
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The bytes this contract was read from.
    #[must_use]
    pub fn descriptor_set_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Identity of everything that was read: the bytes and the provided services. Two contracts with one [`hash`](Self::hash) may have
    /// different fingerprints, since reserved numbers and methods that are not provided are in no hash.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Identity of everything that was read and of what is said beside it, such as rules for other versions.
    #[must_use]
    pub fn fingerprint_with(&self, beside: &[&[u8]]) -> [u8; 32] {
        hash::fingerprint_with(self.fingerprint, beside)
    }

    /// Mortise's options of a field of this contract.
    #[must_use]
    pub fn field_options(&self, field: &FieldDescriptor) -> FieldOptions {
        self.options
            .fields
            .get(field.full_name())
            .cloned()
            .unwrap_or_default()
    }

    /// Hash over the numbers and kinds of a message and of what it is made of; `None` if the set does not declare it.
    ///
    /// Of two contracts that give the same one, each reads what the other wrote. Names are not in it.
    #[must_use]
    pub fn message_wire_hash(&self, message: &str) -> Option<[u8; 32]> {
        let message = self.pool().get_message_by_name(message)?;
        Some(hash::message_wire_hash(&message))
    }

    /// Full names of the messages marked `state_schema`.
    #[must_use]
    pub fn state_schemas(&self) -> &[String] {
        &self.options.state_schemas
    }

    /// The field's `(mortise.default)` with its tag.
    pub(crate) fn encoded_default(&self, field: &FieldDescriptor) -> Option<&Bytes> {
        self.defaults.get(field.full_name())
    }

    /// Every method that the set declares, provided or not.
    pub(crate) fn declared(&self) -> impl Iterator<Item = (Target, &MethodOptions)> {
        let provided = self.methods.iter().map(|method| {
            let (service, name) = method.key();
            (
                Target {
                    service: service.to_owned(),
                    method: name.to_owned(),
                    version: None,
                },
                &method.options,
            )
        });
        provided.chain(
            self.unprovided
                .iter()
                .map(|(target, options)| (target.clone(), options)),
        )
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract")
            .field("hash", &Hex(&self.hash))
            .field("services", &self.services)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

// === impl Method ===

impl Method {
    /// Full name of the service, `package.Service`.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The method's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.descriptor.name()
    }

    /// `package.Service/Method`
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}/{}", self.service, self.name())
    }

    /// The request's type.
    #[must_use]
    pub fn input(&self) -> MessageDescriptor {
        self.descriptor.input()
    }

    /// The response's type.
    #[must_use]
    pub fn output(&self) -> MessageDescriptor {
        self.descriptor.output()
    }

    /// Whether the caller sends a stream of requests.
    #[must_use]
    pub fn client_streaming(&self) -> bool {
        self.descriptor.is_client_streaming()
    }

    /// Whether the provider answers with a stream of responses.
    #[must_use]
    pub fn server_streaming(&self) -> bool {
        self.descriptor.is_server_streaming()
    }

    /// Hash of the numbers and kinds: equal means that the same bytes mean the same to both sides.
    #[must_use]
    pub fn wire_hash(&self) -> [u8; 32] {
        self.wire_hash
    }

    /// Hash of names and options as well: equal means the same contract, in JSON too.
    #[must_use]
    pub fn full_hash(&self) -> [u8; 32] {
        self.full_hash
    }

    /// What the contract says about the method beside its types.
    #[must_use]
    pub fn options(&self) -> &MethodOptions {
        &self.options
    }

    /// The method in the contract's pool.
    #[must_use]
    pub fn descriptor(&self) -> &MethodDescriptor {
        &self.descriptor
    }

    fn key(&self) -> (&str, &str) {
        (&self.service, self.name())
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method")
            .field("target", &self.target())
            .field("wire_hash", &Hex(&self.wire_hash))
            .field("full_hash", &Hex(&self.full_hash))
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

struct Hex<'a>(&'a [u8; 32]);

impl fmt::Debug for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The well-known files as prost-reflect ships them. A set cannot bring its own: a different `google.protobuf.FieldOptions` would
/// break whoever reads an option.
static WELL_KNOWN: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    let global = DescriptorPool::global();
    let files = global
        .files()
        .filter(|file| file.name().starts_with("google/protobuf/"));
    pool.add_file_descriptor_protos(files.map(|file| file.file_descriptor_proto().clone()))
        .expect("the well-known files import nothing but each other");
    pool
});

fn link(bytes: &[u8]) -> Result<DescriptorPool, ContractError> {
    let mut pool = WELL_KNOWN.clone();
    // What is known to make the linker panic has been refused; what is not known must not reach the host either.
    let linked = catch_unwind(AssertUnwindSafe(|| pool.decode_file_descriptor_set(bytes)));
    match linked {
        Ok(Ok(())) => Ok(pool),
        Ok(Err(error)) => Err(raw::malformed(error.to_string())),
        Err(_) => Err(raw::malformed("the linker gave up on it".to_owned())),
    }
}

fn encoded_defaults(
    pool: &DescriptorPool,
    options: &OptionTable,
) -> Result<HashMap<String, Bytes>, ContractError> {
    let mut encoded = HashMap::new();
    for (path, options) in &options.fields {
        // Options may also stand on extensions and in files that the linker replaced; those fields are in no message of the pool.
        let field = path.rsplit_once('.').and_then(|(message, name)| {
            let message = pool.get_message_by_name(message)?;
            message.get_field_by_name(name)
        });
        if let (Some(field), Some(text)) = (field, &options.default) {
            encoded.insert(path.clone(), defaults::encode(&field, text)?);
        }
    }
    Ok(encoded)
}

/// The services to provide, sorted.
fn provided(pool: &DescriptorPool, provides: &[String]) -> Result<Vec<String>, ContractError> {
    let own = |file: &str| {
        !file.starts_with("google/") && !file.starts_with("mortise/host/") && file != "mortise/options.proto"
    };
    let known = || -> Vec<String> {
        let services = pool
            .services()
            .filter(|service| own(service.parent_file().name()));
        services.map(|service| service.full_name().to_owned()).collect()
    };
    let mut services = if provides.is_empty() {
        known()
    } else {
        provides.to_vec()
    };
    if let Some(unknown) = services
        .iter()
        .find(|name| pool.get_service_by_name(name).is_none())
    {
        return Err(ContractError::UnknownService {
            service: unknown.clone(),
            known: known(),
        });
    }
    services.sort_unstable();
    services.dedup();
    Ok(services)
}
