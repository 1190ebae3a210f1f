//! The ground and the specification, read. The host wrote them and is trusted; a value that is not there is a mismatch of the two and ends the launcher.

use std::ffi::CStr;

/// What is made before it is known which plugin it is for.
pub(crate) struct Ground<'a> {
    pub(crate) want: u32,
    pub(crate) uid_map: &'a [u8],
    pub(crate) gid_map: &'a [u8],
    pub(crate) host_name: &'a [u8],
    /// What every plugin's file tree has.
    pub(crate) entries: Vec<Entry<'a>>,
    pub(crate) handled_files: u64,
    pub(crate) handled_net: u64,
    pub(crate) scoped: u64,
    /// Path in the jail and the rights below it.
    pub(crate) file_rules: Vec<(&'a CStr, u64)>,
}

/// What to start there.
pub(crate) struct Spec<'a> {
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// What this plugin's file tree has beside.
    pub(crate) entries: Vec<Entry<'a>>,
    /// Resource and its hard and soft limit.
    pub(crate) rlimits: Vec<(u32, u64)>,
    /// Where the proxy listens on the jail's loopback; 0 for none.
    pub(crate) proxy_port: u32,
    /// Further rules.
    pub(crate) file_rules: Vec<(&'a CStr, u64)>,
    pub(crate) filter: &'a [u8],
    /// Paths below which an `open` or `connect` is left to the kernel and not reported.
    pub(crate) visible: Vec<&'a [u8]>,
    pub(crate) directory: &'a CStr,
    /// Empty: the first inherited descriptor is the program.
    pub(crate) program: &'a CStr,
    pub(crate) arguments: Vec<&'a CStr>,
    pub(crate) environment: Vec<&'a CStr>,
    /// The numbers that the inherited descriptors get.
    pub(crate) inherited: Vec<u32>,
}

/// One entry of the jail's file tree.
pub(crate) struct Entry<'a> {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    /// What it shows: a path outside, a link's target, a file's content.
    pub(crate) source: &'a CStr,
    /// Where it is in the jail, absolute.
    pub(crate) target: &'a CStr,
}

struct Reader<'a>(&'a [u8]);

// === impl Ground ===

impl<'a> Ground<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let ground = Self {
            want: from.u32()?,
            uid_map: from.bytes()?,
            gid_map: from.bytes()?,
            host_name: from.bytes()?,
            entries: from.list(Reader::entry)?,
            handled_files: from.u64()?,
            handled_net: from.u64()?,
            scoped: from.u64()?,
            file_rules: from.list(Reader::rule)?,
        };
        from.0.is_empty().then_some(ground)
    }

    pub(crate) fn wants(&self, bit: u32) -> bool {
        self.want & bit != 0
    }
}

// === impl Spec ===

impl<'a> Spec<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let spec = Self {
            user: from.u32()?,
            group: from.u32()?,
            entries: from.list(Reader::entry)?,
            rlimits: from.list(|it| Some((it.u32()?, it.u64()?)))?,
            proxy_port: from.u32()?,
            file_rules: from.list(Reader::rule)?,
            filter: from.bytes()?,
            visible: from.list(Reader::bytes)?,
            directory: from.text()?,
            program: from.text()?,
            arguments: from.list(Reader::text)?,
            environment: from.list(Reader::text)?,
            inherited: from.list(Reader::u32)?,
        };
        from.0.is_empty().then_some(spec)
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// Written with its zero.
    fn text(&mut self) -> Option<&'a CStr> {
        CStr::from_bytes_with_nul(self.bytes()?).ok()
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        Some(Entry {
            kind: self.u32()?,
            flags: self.u32()?,
            source: self.text()?,
            target: self.text()?,
        })
    }

    fn rule(&mut self) -> Option<(&'a CStr, u64)> {
        Some((self.text()?, self.u64()?))
    }

    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.u32()?;
        (0..length).map(|_| one(self)).collect()
    }
}
