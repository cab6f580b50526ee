// SPDX-License-Identifier: Apache-2.0
//! librdkafka, made safe: the only unsafe code of Dovetail.
//!
//! Purpose: what the wrapper crate `rdkafka` leaves out and a stream needs: messages in batches, the offset at
//! which a partition ends (which under `read_committed` lies behind aborted and control records that no consumer
//! sees), topic ids, and last stable offsets. Collaborators: `source` and `probe`, which see safe types only.
//! Invariants: every pointer that librdkafka hands over is owned by one guard that gives it back; nothing
//! borrowed from a message outlives its [`Batch`], no batch its [`Consumer`]; strings are checked before they
//! cross. Non-goals: policy, retries, decoding.
//! Source of each contract: the comments of `rdkafka.h` 2.12.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as Code;
use tracing::{debug, error, info, warn};

/// What librdkafka says is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) text: String,
}

impl Fault {
    fn of(code: Code) -> Self {
        // SAFETY: returns a static string for every code, known or not.
        let text = unsafe { owned(sys::rd_kafka_err2str(code)) };
        Self { code, text }
    }

    /// Whether a partition has no leader, or another one than we thought: that passes.
    pub(crate) fn is_election(&self) -> bool {
        matches!(
            self.code,
            Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
                | Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION
        )
    }

    /// Whether trying again may help without anybody doing something.
    pub(crate) fn is_transient(&self) -> bool {
        self.is_election()
            || matches!(
                self.code,
                Code::RD_KAFKA_RESP_ERR__TRANSPORT
                    | Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
                    | Code::RD_KAFKA_RESP_ERR__TIMED_OUT
                    | Code::RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE
                    | Code::RD_KAFKA_RESP_ERR__RESOLVE
                    | Code::RD_KAFKA_RESP_ERR__WAIT_COORD
                    | Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT
                    | Code::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE
                    | Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS
                    | Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE
                    | Code::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION
            )
    }
}

/// Which offset of each partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The first that is kept.
    Earliest,
    /// The last stable offset: everything before it is committed or aborted.
    Stable,
    /// Behind the last record, whatever becomes of its transaction.
    End,
    /// The first whose record is stamped at or after so many milliseconds since the Unix epoch; the last stable
    /// offset if there is none.
    At(i64),
}

/// A connection to a cluster that reads the partitions it is told to.
#[derive(Debug)]
pub(crate) struct Consumer {
    client: NonNull<sys::rd_kafka_t>,
    queue: NonNull<sys::rd_kafka_queue_t>,
    /// What the callbacks write into; librdkafka holds a pointer to it until the client is destroyed.
    heard: Box<Heard>,
    assigned: AtomicBool,
}

/// What librdkafka reported outside of any call.
#[derive(Debug, Default)]
struct Heard {
    last: Mutex<Option<Fault>>,
}

// SAFETY: librdkafka's handles may be used from any thread, by several at once ("thread-safe" in rdkafka.h,
// section "Threads and callbacks"); `Heard` is a mutex.
unsafe impl Send for Consumer {}
// SAFETY: as above.
unsafe impl Sync for Consumer {}

impl Consumer {
    /// A client with these properties. It connects by itself, in the background.
    ///
    /// # Errors
    /// When a property is not one that librdkafka takes, or contradicts another.
    pub(crate) fn new(properties: &[(&str, String)]) -> Result<Self, Fault> {
        let mut heard = Box::<Heard>::default();
        let conf = Conf::new();
        for (name, value) in properties {
            conf.set(name, value)?;
        }
        // SAFETY: `conf` is live; `heard` is boxed and outlives the client, which is destroyed first in `drop`.
        unsafe {
            sys::rd_kafka_conf_set_opaque(conf.0.as_ptr(), ptr::from_mut(&mut *heard).cast());
            sys::rd_kafka_conf_set_error_cb(conf.0.as_ptr(), Some(on_error));
            sys::rd_kafka_conf_set_log_cb(conf.0.as_ptr(), Some(on_log));
        }
        let mut reason = [0; 512];
        // SAFETY: on success the client owns `conf`, on failure it stays ours; `reason` has the stated size.
        let client = unsafe {
            sys::rd_kafka_new(
                sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
                conf.0.as_ptr(),
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        let Some(client) = NonNull::new(client) else {
            return Err(invalid(&reason));
        };
        std::mem::forget(conf);
        // SAFETY: the client is live; the queue is a new reference that `drop` gives back.
        let queue = unsafe {
            sys::rd_kafka_poll_set_consumer(client.as_ptr());
            NonNull::new(sys::rd_kafka_queue_get_consumer(client.as_ptr()))
        };
        let Some(queue) = queue else {
            // SAFETY: nothing else refers to the client.
            unsafe { sys::rd_kafka_destroy(client.as_ptr()) };
            return Err(Fault::of(Code::RD_KAFKA_RESP_ERR__UNKNOWN_GROUP));
        };
        Ok(Self {
            client,
            queue,
            heard,
            assigned: AtomicBool::new(false),
        })
    }

    /// What was reported since the last call: brokers that cannot be reached, refused credentials.
    pub(crate) fn heard(&self) -> Option<Fault> {
        // Reports come with consuming; while nothing is assigned, nothing else does.
        if !self.assigned.load(Ordering::Relaxed) {
            drop(self.consume(1, Duration::ZERO));
        }
        self.heard.last.lock().take()
    }

    /// Reads these partitions of `topic` from these offsets on, and no others.
    pub(crate) fn assign(&self, topic: &CStr, from: &[(i32, i64)]) -> Result<(), Fault> {
        let list = Partitions::of(topic, from);
        self.assigned.store(true, Ordering::Relaxed);
        // SAFETY: both are live; the list is copied.
        let code = unsafe { sys::rd_kafka_assign(self.client.as_ptr(), list.0.as_ptr()) };
        checked(code)
    }

    /// Up to `most` records and events of the partitions: what is there, or, when nothing is, the first that comes
    /// within `wait`.
    pub(crate) fn consume(&self, most: usize, wait: Duration) -> Batch<'_> {
        let mut messages = Vec::with_capacity(most);
        self.fill(&mut messages, most, Duration::ZERO);
        if messages.is_empty() {
            self.fill(&mut messages, 1, wait);
            if !messages.is_empty() {
                self.fill(&mut messages, most, Duration::ZERO);
            }
        }
        Batch {
            messages,
            _consumer: PhantomData,
        }
    }

    /// Appends what the queue hands out: it waits until there are `most`, or for `wait`.
    fn fill(
        &self,
        messages: &mut Vec<NonNull<sys::rd_kafka_message_t>>,
        most: usize,
        wait: Duration,
    ) {
        let room = most - messages.len().min(most);
        messages.reserve(room);
        let spare = messages.spare_capacity_mut();
        // SAFETY: `spare` has room for `room` pointers, and librdkafka writes as many as it returns, none null.
        // Each is ours from then on, until `Batch` destroys it.
        unsafe {
            let got = sys::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                millis(wait),
                spare.as_mut_ptr().cast(),
                room,
            );
            let got = usize::try_from(got).unwrap_or(0);
            messages.set_len(messages.len() + got);
        }
    }

    /// The id of a topic and its partitions, in order.
    ///
    /// # Errors
    /// When there is no such topic, we may not describe or read it, or no broker answers in time.
    pub(crate) fn describe(
        &self,
        topic: &CStr,
        timeout: Duration,
    ) -> Result<(String, Vec<i32>), Fault> {
        let event = self.ask(Admin::Topic(topic), timeout)?;
        // SAFETY: everything below is owned by the event, which lives to the end of the block; the counts are
        // those of the arrays.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            let Some(&found) = array(topics, count).first() else {
                return Err(Fault::of(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
            };
            checked_error(sys::rd_kafka_TopicDescription_error(found))?;
            // Brokers that know of no rights name none, or all.
            let rights =
                sys::rd_kafka_TopicDescription_authorized_operations(found, &raw mut count);
            let rights = array(rights.cast_mut(), count);
            let read = sys::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ;
            if !rights.is_empty() && !rights.contains(&read) {
                return Err(Fault::of(
                    Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                ));
            }
            let id = owned(sys::rd_kafka_Uuid_base64str(
                sys::rd_kafka_TopicDescription_topic_id(found),
            ));
            let partitions = sys::rd_kafka_TopicDescription_partitions(found, &raw mut count);
            let partitions = array(partitions, count).iter();
            let mut partitions: Vec<i32> = partitions
                .map(|&p| sys::rd_kafka_TopicPartitionInfo_partition(p))
                .collect();
            partitions.sort_unstable();
            Ok((id, partitions))
        }
    }

    /// Writes down for the group how far it has read, in the background, for so long at most: nobody here reads that, so it may
    /// fail. Not by a commit, whose answer a client waits for when it ends, even while no broker is there.
    pub(crate) fn write_group(
        &self,
        group: &CStr,
        topic: &CStr,
        offsets: &[(i32, i64)],
        timeout: Duration,
    ) -> Result<(), Fault> {
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS;
        let (queue, options) = (Queue::new(self), AdminOptions::new(self, op, timeout)?);
        let offsets = Partitions::of(topic, offsets);
        // SAFETY: everything is live; librdkafka copies what it keeps.
        unsafe {
            let mut wanted = [sys::rd_kafka_AlterConsumerGroupOffsets_new(
                group.as_ptr(),
                offsets.0.as_ptr(),
            )];
            sys::rd_kafka_AlterConsumerGroupOffsets(
                self.client.as_ptr(),
                wanted.as_mut_ptr(),
                wanted.len(),
                options.0.as_ptr(),
                queue.0.as_ptr(),
            );
            sys::rd_kafka_AlterConsumerGroupOffsets_destroy(wanted[0]);
        }
        Ok(())
    }

    /// An offset of each partition, in the order asked.
    ///
    /// # Errors
    /// When a partition is not there, we may not read it, or no broker answers in time.
    pub(crate) fn offsets(
        &self,
        topic: &CStr,
        partitions: &[i32],
        ask: Ask,
        timeout: Duration,
    ) -> Result<Vec<(i32, i64)>, Fault> {
        let spec = match ask {
            Ask::Earliest => sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
            Ask::Stable | Ask::End => {
                sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64
            }
            Ask::At(millis) => millis.max(0),
        };
        let wanted: Vec<(i32, i64)> = partitions.iter().map(|p| (*p, spec)).collect();
        let started = Instant::now();
        let isolation = match ask {
            Ask::End => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
            _ => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        };
        let wanted = Partitions::of(topic, &wanted);
        let event = self.ask(Admin::Offsets(&wanted, isolation), timeout)?;
        let mut found = Vec::with_capacity(partitions.len());
        // SAFETY: everything is owned by the event, which lives to the end of the block; the count is that of the
        // array.
        unsafe {
            let result = sys::rd_kafka_event_ListOffsets_result(event.0.as_ptr());
            let mut count = 0;
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
            for &info in array(infos, count) {
                let at = &*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(info);
                checked(at.err)?;
                found.push((at.partition, at.offset));
            }
        }
        found.sort_unstable();
        // No record is stamped that late.
        let late: Vec<i32> = found.iter().filter(|f| f.1 < 0).map(|f| f.0).collect();
        if !late.is_empty() && !matches!(ask, Ask::Stable | Ask::End) {
            let left = timeout.saturating_sub(started.elapsed());
            let ends = self.offsets(topic, &late, Ask::Stable, left)?;
            found.retain(|f| f.1 >= 0);
            found.extend(ends);
            found.sort_unstable();
        }
        Ok(found)
    }

    /// Sends one request of the admin protocol and waits for its answer.
    fn ask(&self, request: Admin<'_>, timeout: Duration) -> Result<Event, Fault> {
        let (op, wanted) = match request {
            Admin::Topic(_) => (
                sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
                sys::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT,
            ),
            Admin::Offsets(..) => (
                sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
                sys::RD_KAFKA_EVENT_LISTOFFSETS_RESULT,
            ),
        };
        let queue = Queue::new(self);
        let options = AdminOptions::new(self, op, timeout)?;
        // SAFETY: client, queue, options and what is asked for are live; librdkafka copies what it keeps.
        unsafe {
            match request {
                Admin::Topic(topic) => {
                    checked_owned(
                        sys::rd_kafka_AdminOptions_set_include_authorized_operations(
                            options.0.as_ptr(),
                            1,
                        ),
                    )?;
                    let mut names = [topic.as_ptr()];
                    let topics =
                        sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
                    sys::rd_kafka_DescribeTopics(
                        self.client.as_ptr(),
                        topics,
                        options.0.as_ptr(),
                        queue.0.as_ptr(),
                    );
                    sys::rd_kafka_TopicCollection_destroy(topics);
                }
                Admin::Offsets(list, isolation) => {
                    checked_owned(sys::rd_kafka_AdminOptions_set_isolation_level(
                        options.0.as_ptr(),
                        isolation,
                    ))?;
                    sys::rd_kafka_ListOffsets(
                        self.client.as_ptr(),
                        list.0.as_ptr(),
                        options.0.as_ptr(),
                        queue.0.as_ptr(),
                    );
                }
            }
        }
        // A second more than the request's own limit, which reports what went wrong.
        let event = queue.poll(timeout + Duration::from_secs(1));
        let event = event.ok_or_else(|| Fault::of(Code::RD_KAFKA_RESP_ERR__TIMED_OUT))?;
        // SAFETY: the event is live, and its error text with it.
        unsafe {
            let code = sys::rd_kafka_event_error(event.0.as_ptr());
            if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                let text = owned(sys::rd_kafka_event_error_string(event.0.as_ptr()));
                return Err(Fault { code, text });
            }
            if sys::rd_kafka_event_type(event.0.as_ptr()) != wanted {
                return Err(Fault::of(Code::RD_KAFKA_RESP_ERR__BAD_MSG));
            }
        }
        Ok(event)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // SAFETY: both are live and used for the last time. We are in no group, so there is nothing to leave.
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
            sys::rd_kafka_destroy_flags(
                self.client.as_ptr(),
                sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE as c_int,
            );
        }
    }
}

enum Admin<'a> {
    Topic(&'a CStr),
    Offsets(&'a Partitions, sys::rd_kafka_IsolationLevel_t),
}

/// What one call of [`Consumer::consume`] got.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    messages: Vec<NonNull<sys::rd_kafka_message_t>>,
    _consumer: PhantomData<&'a Consumer>,
}

/// One thing that a partition had to say.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A record.
    Record(Record<'a>),
    /// The partition has nothing before `next` that was not handed over: it ends there for now.
    End { partition: i32, next: i64 },
    /// The partition cannot be read.
    Fault { partition: i32, fault: Fault },
}

/// One record of a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a>(&'a sys::rd_kafka_message_t);

impl Batch<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.messages.iter().map(|message| {
            let message = message.as_ptr();
            // SAFETY: the message is ours until the batch is dropped, which `self` borrows. Its code is read as a
            // number first: a broker may send one that the enum does not have.
            let code = unsafe { (&raw const (*message).err).cast::<i32>().read() };
            let code = Code::try_from(code).unwrap_or(Code::RD_KAFKA_RESP_ERR_UNKNOWN);
            // SAFETY: as above; a field that is a number, and a text that lives as long as the message.
            let (partition, next) = unsafe { ((*message).partition, (*message).offset) };
            match code {
                // SAFETY: as above; its code is one that the enum has.
                Code::RD_KAFKA_RESP_ERR_NO_ERROR => Item::Record(Record(unsafe { &*message })),
                Code::RD_KAFKA_RESP_ERR__PARTITION_EOF => Item::End { partition, next },
                code => {
                    // SAFETY: as above.
                    let text = unsafe { owned(sys::rd_kafka_message_errstr(message)) };
                    Item::Fault {
                        partition,
                        fault: Fault { code, text },
                    }
                }
            }
        })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in &self.messages {
            // SAFETY: ours, and used for the last time.
            unsafe { sys::rd_kafka_message_destroy(message.as_ptr()) };
        }
    }
}

impl<'a> Record<'a> {
    pub(crate) fn partition(&self) -> i32 {
        self.0.partition
    }

    pub(crate) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// Its value; none for a tombstone.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: the message's own pointer and length, alive as long as the message.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// When it was made or appended, as the topic says; milliseconds since the Unix epoch.
    pub(crate) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live, `kind` is ours.
        let millis = unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        let known = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (known && millis >= 0).then_some(millis)
    }

    /// Its headers in their order: name, and value if it has one.
    pub(crate) fn headers(&self) -> Vec<(&'a [u8], Option<&'a [u8]>)> {
        let mut headers = ptr::null_mut();
        let mut found = Vec::new();
        // SAFETY: the headers belong to the message, which outlives what is returned; parsing them on first use
        // changes the message only behind librdkafka's own pointer, and a batch stays on one thread.
        unsafe {
            let code = sys::rd_kafka_message_headers(self.0, &raw mut headers);
            if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                return found;
            }
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            while sys::rd_kafka_header_get_all(
                headers,
                found.len(),
                &raw mut name,
                &raw mut value,
                &raw mut size,
            ) == Code::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                found.push((
                    CStr::from_ptr(name).to_bytes(),
                    bytes(value.cast_mut(), size),
                ));
            }
        }
        found
    }
}

struct Conf(NonNull<sys::rd_kafka_conf_t>);

impl Conf {
    fn new() -> Self {
        // SAFETY: no preconditions; it never returns null.
        let conf = unsafe { sys::rd_kafka_conf_new() };
        Self(NonNull::new(conf).expect("rd_kafka_conf_new allocates"))
    }

    fn set(&self, name: &str, value: &str) -> Result<(), Fault> {
        let mut reason = [0; 512];
        let (name, value) = (c_string(name)?, c_string(value)?);
        // SAFETY: all are live for the call; `reason` has the stated size.
        let result = unsafe {
            sys::rd_kafka_conf_set(
                self.0.as_ptr(),
                name.as_ptr(),
                value.as_ptr(),
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        if result == sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
            return Ok(());
        }
        Err(invalid(&reason))
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: ours; a client that took it over has forgotten this guard.
        unsafe { sys::rd_kafka_conf_destroy(self.0.as_ptr()) };
    }
}

#[derive(Debug)]
struct Partitions(NonNull<sys::rd_kafka_topic_partition_list_t>);

impl Partitions {
    fn of(topic: &CStr, offsets: &[(i32, i64)]) -> Self {
        let size = c_int::try_from(offsets.len()).unwrap_or(0);
        // SAFETY: the list is ours; each element that it hands out is valid until the list grows.
        unsafe {
            let list = sys::rd_kafka_topic_partition_list_new(size);
            for (partition, offset) in offsets {
                let added =
                    sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition);
                (*added).offset = *offset;
            }
            Self(NonNull::new(list).expect("rd_kafka_topic_partition_list_new allocates"))
        }
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        // SAFETY: ours, used for the last time.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) };
    }
}

struct Queue(NonNull<sys::rd_kafka_queue_t>);

impl Queue {
    fn new(consumer: &Consumer) -> Self {
        // SAFETY: the client is live.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client.as_ptr()) };
        Self(NonNull::new(queue).expect("rd_kafka_queue_new allocates"))
    }

    fn poll(&self, wait: Duration) -> Option<Event> {
        // SAFETY: the queue is live; the event is ours.
        let event = unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), millis(wait)) };
        NonNull::new(event).map(Event)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: ours, used for the last time; an answer that still comes is dropped by librdkafka.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

struct Event(NonNull<sys::rd_kafka_event_t>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours, used for the last time.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

struct AdminOptions(NonNull<sys::rd_kafka_AdminOptions_t>);

impl AdminOptions {
    fn new(
        consumer: &Consumer,
        op: sys::rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> Result<Self, Fault> {
        let mut reason = [0; 256];
        // SAFETY: the client is live, the options are ours, `reason` has the stated size.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(consumer.client.as_ptr(), op);
            let options = NonNull::new(options)
                .map(Self)
                .ok_or_else(|| Fault::of(Code::RD_KAFKA_RESP_ERR__INVALID_ARG))?;
            let code = sys::rd_kafka_AdminOptions_set_request_timeout(
                options.0.as_ptr(),
                millis(timeout),
                reason.as_mut_ptr(),
                reason.len(),
            );
            checked(code).map_err(|_| invalid(&reason))?;
            Ok(options)
        }
    }
}

impl Drop for AdminOptions {
    fn drop(&mut self) {
        // SAFETY: ours, used for the last time.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) };
    }
}

/// Called on the thread that consumes, and by admin calls: what is wrong with brokers and credentials.
unsafe extern "C" fn on_error(
    _: *mut sys::rd_kafka_t,
    code: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the `Heard` of the client, which outlives it; `reason` lives for the call.
    let (heard, text) = unsafe { (&*opaque.cast::<Heard>(), owned(reason)) };
    let code = Code::try_from(code).unwrap_or(Code::RD_KAFKA_RESP_ERR__FAIL);
    debug!(%text, "kafka");
    // That all are down follows from what ended the connections, and that one ended from why it was refused.
    let says = |code| match code {
        Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN => 0,
        Code::RD_KAFKA_RESP_ERR__TRANSPORT => 1,
        _ => 2,
    };
    let mut last = heard.last.lock();
    if last
        .as_ref()
        .is_none_or(|last| says(code) >= says(last.code))
    {
        *last = Some(Fault { code, text });
    }
}

/// librdkafka's own log, at its own levels (those of syslog). Secrets are not in it.
unsafe extern "C" fn on_log(
    _: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    // SAFETY: both live for the call.
    let (facility, text) = unsafe { (owned(facility), owned(text)) };
    match level {
        0..=2 => error!(%facility, "kafka: {text}"),
        3..=4 => warn!(%facility, "kafka: {text}"),
        5..=6 => info!(%facility, "kafka: {text}"),
        _ => debug!(%facility, "kafka: {text}"),
    }
}

/// A name as C takes it.
pub(crate) fn c_string(text: &str) -> Result<CString, Fault> {
    CString::new(text).map_err(|_| Fault {
        code: Code::RD_KAFKA_RESP_ERR__INVALID_ARG,
        text: format!("`{}` holds a zero byte", text.replace('\0', "\\0")),
    })
}

fn invalid(reason: &[c_char]) -> Fault {
    // SAFETY: librdkafka ends what it writes with a zero, and the buffer was zero before.
    let text = unsafe { owned(reason.as_ptr()) };
    Fault {
        code: Code::RD_KAFKA_RESP_ERR__INVALID_ARG,
        text,
    }
}

fn checked(code: Code) -> Result<(), Fault> {
    if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
        Ok(())
    } else {
        Err(Fault::of(code))
    }
}

/// SAFETY: `error` is null or live.
unsafe fn checked_error(error: *const sys::rd_kafka_error_t) -> Result<(), Fault> {
    // SAFETY: the caller's promise; the text lives as long as the error. Null is no error.
    unsafe {
        let code = sys::rd_kafka_error_code(error);
        if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Ok(());
        }
        let text = owned(sys::rd_kafka_error_string(error));
        Err(Fault { code, text })
    }
}

/// SAFETY: `error` is null or ours.
unsafe fn checked_owned(error: *mut sys::rd_kafka_error_t) -> Result<(), Fault> {
    // SAFETY: the caller's promise; destroying null does nothing.
    unsafe {
        let result = checked_error(error);
        sys::rd_kafka_error_destroy(error);
        result
    }
}

/// SAFETY: `text` is null or a string that ends with a zero.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// SAFETY: `start` is null or points to `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *mut c_void, length: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { slice::from_raw_parts(start.cast_const().cast(), length) })
}

/// SAFETY: `start` is null or points to `count` values that live for `'a`.
unsafe fn array<'a, T>(start: *mut T, count: usize) -> &'a [T] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start, count) }
}

fn millis(wait: Duration) -> c_int {
    c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX)
}
