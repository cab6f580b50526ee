// SPDX-License-Identifier: Apache-2.0
//! Avro schemas as they are written: JSON, types by name, logical types.
//!
//! Source: the Avro 1.12 specification. Types stand in one list and refer to each other by their place in it, so that
//! a type may hold itself. A logical type that does not fit its type is ignored, as the specification wants it.

use std::collections::HashMap;
use std::sync::Arc;

use dovetail_model::EpochUnit;
use serde_json::{Map, Value};

/// Most types of one schema, its references included.
const MAX_TYPES: usize = 10_000;
/// Most digits of a decimal that is read.
const MAX_PRECISION: u64 = 38;

/// The place of a type in its schema.
pub(super) type TypeId = usize;

/// A type as its values are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    Null,
    Boolean,
    /// An `int` or `long`, 32 or 64 bits.
    Integer(u32),
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Arc<[String]>),
    /// Its scale, and its size where that is fixed.
    Decimal {
        scale: u8,
        size: Option<usize>,
    },
    Date,
    Instant {
        unit: EpochUnit,
    },
    /// 16 bytes.
    Uuid,
    Record(Arc<[Field]>),
    Array(TypeId),
    Map(TypeId),
    Union(Arc<[TypeId]>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) name: Arc<str>,
    pub(super) of: TypeId,
}

/// A schema, its references resolved.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    types: Vec<Type>,
    pub(super) root: TypeId,
}

impl Schema {
    /// Reads a schema and those that it refers to, each after those that it needs itself.
    ///
    /// # Errors
    /// When one is not valid: why.
    pub(super) fn parse<'a>(
        text: &'a str,
        references: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let mut parser = Parser::default();
        for text in references {
            parser.text(text)?;
        }
        let root = parser.text(text)?;
        let types = parser.types.into_iter();
        // A name stands for its type as soon as it is read, and every type is complete at the end.
        let types: Option<Vec<Type>> = types.collect();
        let types = types.ok_or("a type of it is not complete")?;
        Ok(Self { types, root })
    }

    pub(super) fn get(&self, id: TypeId) -> &Type {
        &self.types[id]
    }
}

#[derive(Default)]
struct Parser {
    /// None while a named type is being read.
    types: Vec<Option<Type>>,
    names: HashMap<String, TypeId>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<TypeId, String> {
        let json = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        self.value(&json, "")
    }

    fn value(&mut self, json: &Value, namespace: &str) -> Result<TypeId, String> {
        match json {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.value(branch, namespace));
                let branches = branches.collect::<Result<Vec<TypeId>, String>>()?;
                self.add(Some(Type::Union(branches.into())))
            }
            Value::Object(object) => self.object(object, namespace),
            other => Err(format!("`{other}` is no type")),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<TypeId, String> {
        if let Some(primitive) = primitive(name) {
            return self.add(Some(primitive));
        }
        let known = self.names.get(&full_name(name, namespace));
        // Names without a namespace of their own are also looked for without any.
        let known = known.or_else(|| self.names.get(name));
        known
            .copied()
            .ok_or_else(|| format!("type `{name}` is not declared in it or its references"))
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<TypeId, String> {
        let Some(Value::String(kind)) = object.get("type") else {
            // `{"type": {…}}` says it twice over.
            let inner = object.get("type").ok_or("a type has no `type`")?;
            return self.value(inner, namespace);
        };
        match kind.as_str() {
            "record" | "error" | "enum" | "fixed" => self.declared(kind, object, namespace),
            "array" => {
                let items = object.get("items").ok_or("an array has no `items`")?;
                let items = self.value(items, namespace)?;
                self.add(Some(Type::Array(items)))
            }
            "map" => {
                let values = object.get("values").ok_or("a map has no `values`")?;
                let values = self.value(values, namespace)?;
                self.add(Some(Type::Map(values)))
            }
            name => match primitive(name) {
                Some(primitive) => self.add(Some(logical(primitive, object))),
                None => self.named(name, namespace),
            },
        }
    }

    /// A type that declares a name.
    fn declared(
        &mut self,
        kind: &str,
        object: &Map<String, Value>,
        namespace: &str,
    ) -> Result<TypeId, String> {
        let name = object.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| format!("a {kind} has no `name`"))?;
        let inner = object.get("namespace").and_then(Value::as_str);
        let full = full_name(name, inner.unwrap_or(namespace));
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        let id = self.add(None)?;
        if self.names.insert(full.clone(), id).is_some() {
            return Err(format!("type `{full}` is declared twice"));
        }
        let declared = match kind {
            "enum" => Type::Enum(symbols(object, &full)?),
            "fixed" => {
                let size = object.get("size").and_then(Value::as_u64);
                let size = size.and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| format!("fixed `{full}` has no `size`"))?;
                logical(Type::Fixed(size), object)
            }
            _ => Type::Record(self.fields(object, &full, namespace)?),
        };
        self.types[id] = Some(declared);
        Ok(id)
    }

    fn fields(
        &mut self,
        object: &Map<String, Value>,
        record: &str,
        namespace: &str,
    ) -> Result<Arc<[Field]>, String> {
        let fields = object.get("fields").and_then(Value::as_array);
        let fields = fields.ok_or_else(|| format!("record `{record}` has no `fields`"))?;
        let mut read: Vec<Field> = Vec::with_capacity(fields.len());
        let mut seen = std::collections::HashSet::with_capacity(fields.len());
        for field in fields {
            let name = field.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| format!("a field of record `{record}` has no `name`"))?;
            if !seen.insert(name) {
                return Err(format!("record `{record}` has field `{name}` twice"));
            }
            let of = field.get("type");
            let of = of.ok_or_else(|| format!("field `{name}` of `{record}` has no `type`"))?;
            read.push(Field {
                name: name.into(),
                of: self.value(of, namespace)?,
            });
        }
        Ok(read.into())
    }

    fn add(&mut self, of: Option<Type>) -> Result<TypeId, String> {
        if self.types.len() == MAX_TYPES {
            return Err(format!("it has more than {MAX_TYPES} types"));
        }
        self.types.push(of);
        Ok(self.types.len() - 1)
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Integer(32),
        "long" => Type::Integer(64),
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::Text,
        _ => return None,
    })
}

fn symbols(object: &Map<String, Value>, name: &str) -> Result<Arc<[String]>, String> {
    let symbols = object.get("symbols").and_then(Value::as_array);
    let symbols = symbols.map(|symbols| {
        let symbols = symbols.iter();
        symbols.map(|s| s.as_str().map(str::to_owned)).collect()
    });
    symbols
        .flatten()
        .ok_or_else(|| format!("enum `{name}` has no `symbols`"))
}

/// What the logical type of `plain` makes of it, if it fits.
fn logical(plain: Type, object: &Map<String, Value>) -> Type {
    let Some(logical) = object.get("logicalType").and_then(Value::as_str) else {
        return plain;
    };
    match (logical, &plain) {
        ("date", Type::Integer(32)) => Type::Date,
        ("timestamp-millis" | "local-timestamp-millis", Type::Integer(64)) => Type::Instant {
            unit: EpochUnit::Millisecond,
        },
        ("timestamp-micros" | "local-timestamp-micros", Type::Integer(64)) => Type::Instant {
            unit: EpochUnit::Microsecond,
        },
        ("timestamp-nanos" | "local-timestamp-nanos", Type::Integer(64)) => Type::Instant {
            unit: EpochUnit::Nanosecond,
        },
        ("uuid", Type::Fixed(16)) => Type::Uuid,
        ("decimal", Type::Bytes) => decimal(object, None).unwrap_or(plain),
        ("decimal", Type::Fixed(size)) => decimal(object, Some(*size)).unwrap_or(plain),
        _ => plain,
    }
}

fn decimal(object: &Map<String, Value>, size: Option<usize>) -> Option<Type> {
    let precision = object.get("precision")?.as_u64()?;
    let scale = object.get("scale").map_or(Some(0), Value::as_u64)?;
    let fits = (1..=MAX_PRECISION).contains(&precision) && scale <= precision;
    fits.then_some(Type::Decimal {
        scale: u8::try_from(scale).ok()?,
        size,
    })
}
