//! Plugins without a schema: `google.protobuf.Struct` as serde values.
//!
//! A contract whose messages are `google.protobuf.Struct` says nothing about its fields; JSON callers see plain objects, and the plugin
//! maps them to its own types here. Versions, routing and limits work as for any contract; compatibility of fields is nobody's job.
//!
//! Numbers in a `Struct` are doubles. Whole ones up to 2^53 come back as integers, so `u32` and the like work; larger ones are refused on
//! the way in, because they would come out as another number.
//!
//! ```
//! use mortise_sdk::json;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Order { item: String, amount: u32 }
//!
//! let order = Order { item: "tenon".to_owned(), amount: 3 };
//! let fields = json::to_struct(&order)?;
//! assert_eq!(fields.fields.len(), 2);
//! assert_eq!(json::from_struct::<Order>(fields)?, order);
//! # Ok::<(), mortise_sdk::Status>(())
//! ```

use mortise_wire::Status;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value as Json};

use crate::Result;

/// Integers up to here are doubles without loss.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// A `Struct` as a value of the plugin's own type.
///
/// # Errors
/// `InvalidArgument` that names the field.
pub fn from_struct<T: DeserializeOwned>(fields: Struct) -> Result<T> {
    serde_json::from_value(object(fields)?).map_err(Status::invalid_argument)
}

/// A value as a `Struct`.
///
/// # Errors
/// `Internal` if it is not an object, or holds an integer that a double cannot.
pub fn to_struct<T: Serialize + ?Sized>(value: &T) -> Result<Struct> {
    match serde_json::to_value(value).map_err(Status::internal)? {
        Json::Object(fields) => to_fields(fields),
        other => Err(Status::internal(format_args!(
            "a `Struct` is an object, and this is `{other}`"
        ))),
    }
}

fn object(fields: Struct) -> Result<Json> {
    let fields = fields.fields.into_iter().map(|(name, value)| {
        let value = to_json(value)
            .map_err(|it| Status::invalid_argument(format_args!("field `{name}`: {}", it.message)))?;
        Ok((name, value))
    });
    Ok(Json::Object(fields.collect::<Result<Map<_, _>>>()?))
}

fn to_json(value: Value) -> Result<Json> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(it)) => Json::Bool(it),
        Some(Kind::StringValue(it)) => Json::String(it),
        Some(Kind::NumberValue(it)) => Json::Number(number(it)?),
        Some(Kind::StructValue(it)) => object(it)?,
        Some(Kind::ListValue(it)) => Json::Array(it.values.into_iter().map(to_json).collect::<Result<_>>()?),
    })
}

fn number(number: f64) -> Result<Number> {
    if number.fract() == 0.0 && number.abs() <= INTEGER_MAX {
        return Ok(Number::from(number as i64));
    }
    Number::from_f64(number)
        .ok_or_else(|| Status::invalid_argument(format_args!("`{number}` is not a number in JSON")))
}

fn to_fields(fields: Map<String, Json>) -> Result<Struct> {
    let fields = fields.into_iter().map(|(name, value)| {
        let value =
            to_value(value).map_err(|it| Status::internal(format_args!("field `{name}`: {}", it.message)))?;
        Ok((name, value))
    });
    Ok(Struct {
        fields: fields.collect::<Result<_>>()?,
    })
}

fn to_value(value: Json) -> Result<Value> {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(it) => Kind::BoolValue(it),
        Json::String(it) => Kind::StringValue(it),
        Json::Number(it) => Kind::NumberValue(exact(&it)?),
        Json::Object(it) => Kind::StructValue(to_fields(it)?),
        Json::Array(it) => Kind::ListValue(ListValue {
            values: it.into_iter().map(to_value).collect::<Result<_>>()?,
        }),
    };
    Ok(Value { kind: Some(kind) })
}

fn exact(number: &Number) -> Result<f64> {
    let integer = number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from));
    let double = number.as_f64().unwrap_or(f64::NAN);
    match integer {
        Some(it) if it.unsigned_abs() > INTEGER_MAX as u128 => Err(Status::internal(format_args!(
            "`{it}` is beyond what a `Struct` can hold exactly; send it as a string"
        ))),
        _ => Ok(double),
    }
}

#[cfg(test)]
mod tests;
