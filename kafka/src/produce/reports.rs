// SPDX-License-Identifier: Apache-2.0
//! What librdkafka reports of the records of a transaction, and outside of any call.

use dovetail_model::Position;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError as Error;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka_sys::rd_kafka_resp_err_t as Code;
use tracing::{debug, error, info, warn};

use crate::native::Fault;
use crate::probe::place;

/// Reports of one producer. A record's number says which request it is of.
#[derive(Debug, Default)]
pub(super) struct Reports {
    transaction: Mutex<Transaction>,
    heard: Mutex<Option<Fault>>,
}

#[derive(Debug, Default)]
struct Transaction {
    /// Behind the last record of each request, in the partitions that it touches.
    ends: Vec<Position>,
    /// Why a record was not acknowledged.
    failed: Option<Fault>,
}

impl Reports {
    /// A transaction of so many requests begins.
    pub(super) fn begin(&self, requests: usize) {
        *self.transaction.lock() = Transaction {
            ends: vec![Position::zero(); requests],
            failed: None,
        };
        *self.heard.lock() = None;
    }

    /// Where the records of each request end that were acknowledged.
    pub(super) fn ends(&self) -> Vec<Position> {
        self.transaction.lock().ends.clone()
    }

    /// Why a record was not acknowledged, if one was not.
    pub(super) fn failed(&self) -> Option<Fault> {
        self.transaction.lock().failed.clone()
    }

    /// What was reported last of brokers that cannot be reached and credentials that are refused.
    pub(super) fn heard(&self) -> Option<Fault> {
        self.heard.lock().clone()
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivered: &DeliveryResult<'_>, request: usize) {
        let mut transaction = self.transaction.lock();
        match delivered {
            Ok(message) => {
                let (partition, next) = place((message.partition(), message.offset() + 1));
                if let Some(end) = transaction.ends.get_mut(request)
                    && end.get(partition) < next
                {
                    *end = std::mem::take(end).with(partition, next);
                }
            }
            Err((error, _)) => {
                let fault = fault(error);
                // What was thrown away says less than what it was thrown away for.
                let says = |fault: &Fault| !is_purged(fault);
                if !transaction.failed.as_ref().is_some_and(says) {
                    transaction.failed = Some(fault);
                }
            }
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                error!(%facility, "kafka: {text}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                warn!(%facility, "kafka: {text}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => info!(%facility, "kafka: {text}"),
            RDKafkaLogLevel::Debug => debug!(%facility, "kafka: {text}"),
        }
    }

    fn error(&self, error: Error, reason: &str) {
        debug!(%reason, "kafka");
        let mut heard = Fault {
            text: reason.to_owned(),
            ..fault(&error)
        };
        // That all are down follows from what ended the connections.
        let says = |fault: &Fault| fault.code != Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
        let mut last = self.heard.lock();
        match &mut *last {
            Some(last) if says(last) && !says(&heard) => {}
            Some(last) => std::mem::swap(last, &mut heard),
            none => *none = Some(heard),
        }
    }
}

fn is_purged(fault: &Fault) -> bool {
    matches!(
        fault.code,
        Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE | Code::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT
    )
}

/// An error of the wrapper crate in our words.
pub(super) fn fault(error: &Error) -> Fault {
    let text = match error {
        Error::Transaction(error) => error.string(),
        error => error
            .rdkafka_error_code()
            .map_or_else(|| error.to_string(), |code| code.to_string()),
    };
    let code = error.rdkafka_error_code();
    Fault {
        code: code_of(code.unwrap_or(RDKafkaErrorCode::Fail)),
        text,
    }
}

pub(super) fn code_of(code: RDKafkaErrorCode) -> Code {
    Code::try_from(code as i32).unwrap_or(Code::RD_KAFKA_RESP_ERR_UNKNOWN)
}
