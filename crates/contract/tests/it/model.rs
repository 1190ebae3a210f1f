//! A random contract as data, and ways to write it down.

use std::fmt::Write as _;

use proptest::prelude::*;

/// Messages `M0..`, enum `E`, and a service `S` with one method from the first message to the last.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) messages: Vec<Vec<Field>>,
    pub(crate) values: Vec<i32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) ty: Type,
    pub(crate) label: Label,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Scalar(&'static str),
    /// Index into the messages; may be the one the field stands in.
    Message(usize),
    Enum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Implicit,
    Optional,
    Repeated,
    /// `map<string, T>`
    Map,
    /// In the message's oneof.
    Oneof,
}

/// How to write a model down. Nothing of it may be seen by a hash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) reverse: bool,
    pub(crate) comments: bool,
    /// The messages in a file of their own.
    pub(crate) split: bool,
}

pub(crate) const SCALARS: [&str; 15] = [
    "double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "bytes", "uint32",
    "sfixed32", "sfixed64", "sint32", "sint64",
];

impl Model {
    /// Source files, by name.
    pub(crate) fn write(&self, layout: Layout) -> Vec<(String, String)> {
        let header = |imports: &str| format!("syntax = \"proto3\";\npackage p.v1;\n{imports}\n");
        let note = |text: &str| {
            if layout.comments {
                format!("// {text}\n")
            } else {
                String::new()
            }
        };
        let mut types = String::new();
        let mut indices: Vec<usize> = (0..self.messages.len()).collect();
        if layout.reverse {
            indices.reverse();
        }
        for index in indices {
            let mut fields: Vec<&Field> = self.messages[index].iter().collect();
            if layout.reverse {
                fields.reverse();
            }
            let _ = writeln!(types, "{}message M{index} {{", note("A message."));
            let (inside, outside): (Vec<&Field>, Vec<&Field>) =
                fields.into_iter().partition(|field| field.label == Label::Oneof);
            for field in outside {
                let _ = writeln!(types, "{}{}", note("A field."), field.write());
            }
            if !inside.is_empty() {
                let fields: String = inside.iter().map(|field| field.write()).collect();
                let _ = writeln!(types, "oneof choice {{ {fields} }}");
            }
            types.push_str("}\n");
        }
        let mut values: Vec<i32> = self.values.clone();
        if layout.reverse {
            values[1..].reverse();
        }
        let values: String = values.iter().map(|it| format!("V{it} = {it}; ")).collect();
        let _ = writeln!(types, "enum E {{ {values} }}");
        let last = self.messages.len() - 1;
        let service = format!(
            "{}service S {{ rpc Call(M0) returns (M{last}); }}\n",
            note("A service.")
        );
        if layout.split {
            vec![
                (
                    "api/service.proto".to_owned(),
                    header("import \"api/types.proto\";") + &service,
                ),
                ("api/types.proto".to_owned(), header("") + &types),
            ]
        } else {
            vec![("one.proto".to_owned(), header("") + &types + &service)]
        }
    }
}

impl Field {
    fn write(&self) -> String {
        let ty = match self.ty {
            Type::Scalar(name) => name.to_owned(),
            Type::Message(index) => format!("M{index}"),
            Type::Enum => "E".to_owned(),
        };
        let Self { name, number, .. } = self;
        match self.label {
            Label::Implicit | Label::Oneof => format!("{ty} {name} = {number}; "),
            Label::Optional => format!("optional {ty} {name} = {number}; "),
            Label::Repeated => format!("repeated {ty} {name} = {number}; "),
            Label::Map => format!("map<string, {ty}> {name} = {number}; "),
        }
    }
}

fn fields(messages: usize) -> impl Strategy<Value = Vec<Field>> {
    let ty = prop_oneof![
        4 => proptest::sample::select(SCALARS.to_vec()).prop_map(Type::Scalar),
        2 => (0..messages).prop_map(Type::Message),
        1 => Just(Type::Enum),
    ];
    let label = prop_oneof![
        Just(Label::Implicit),
        Just(Label::Optional),
        Just(Label::Repeated),
        Just(Label::Map),
        Just(Label::Oneof),
    ];
    proptest::collection::btree_map(1_u32..40, (ty, label), 1..6).prop_map(|fields| {
        let field = |(number, (ty, label))| Field {
            name: format!("f{number}"),
            number,
            ty,
            label,
        };
        fields.into_iter().map(field).collect()
    })
}

/// Random models; they may be recursive, and types may not be reachable.
pub(crate) fn models() -> impl Strategy<Value = Model> {
    (1_usize..5).prop_flat_map(|messages| {
        let values = proptest::collection::btree_set(1_i32..20, 0..4)
            .prop_map(|rest| std::iter::once(0).chain(rest).collect::<Vec<i32>>());
        (proptest::collection::vec(fields(messages), messages), values)
            .prop_map(|(messages, values)| Model { messages, values })
    })
}

pub(crate) fn layouts() -> impl Strategy<Value = Layout> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(reverse, comments, split)| Layout {
        reverse,
        comments,
        split,
    })
}
