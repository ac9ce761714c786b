//! The vendor's API protocol, in both directions: signatures, parameters, replies, errors.
//!
//! A server handles a request in steps, because some of them need state that only the control plane has:
//!
//! 1. [`Format::of`]: the format of the reply, known even if nothing else can be read;
//! 2. [`read()`]: routing, common parameters, time stamp;
//! 3. [`Request::check_window`], the caller's look-up of the key (or of the owner of [`Request::bearer_token`]),
//!    [`Request::verify`], the caller's check of the nonce;
//! 4. [`call()`]: parameters to a typed [`Call`], with per-call limits and errors worded by the account's [`Profile`];
//! 5. [`render()`] a [`Reply`], or [`refuse`] with a [`Refusal`].
//!
//! A client signs with [`sign_v3`] or [`sign_v1`].
//!
//! # What always holds
//!
//! - No I/O, no clock: values in, values out. Untrusted bytes never make it panic.
//! - Codes, statuses and texts are exactly the vendor's wherever the vendor has them.
//! - What the vendor has and we have not implemented is refused (`InvalidAction.NotFound`; for parts of an action
//!   `UnsupportedOperation`), never answered with a success that does nothing.
//!
//! # Not here
//!
//! Accounts, quotas, tasks: this crate only defines how the API represents them.

mod actions;
mod audit;
mod call;
mod certificates;
mod credentials;
mod domains;
mod errors;
mod explain;
mod figures;
mod form;
mod functions;
mod labels;
mod owners;
mod path;
mod places;
mod prefetch;
mod profile;
mod proof;
mod read;
mod refusal;
mod render;
mod reply;
mod rules;
mod service;
mod sign;
mod sources;
mod steering;
mod tasks;

pub use actions::{Resource, resource};
pub use audit::{AuditEvent, AuditQuery};
pub use call::{Call, call};
pub use certificates::{CertificatePair, CertificateShown, SetCertificate};
pub use credentials::{Bearer, CreateBearer, CreateSession, Session};
pub use domains::{
    AddDomains, CdnType, DomainQuery, DomainStatus, ModifyDomains, RESOURCE_GROUP, SearchType, SetDomain,
};
pub use errors::{codes, page};
pub use explain::{Explained, ExplainedTarget};
pub use figures::{
    ANY_ISP, FIGURE_DOMAINS_MAX, FIGURES_KEPT_DAYS, Figure, FigureQuery, FiguresShown, Place, SortBy, URLS_KEPT_DAYS,
    UrlQuery, UrlsShown, Window,
};
pub use form::{PAIRS_MAX, encode, encode_pairs};
pub use functions::{DeleteFunctions, FunctionQuery, SetFunction, SetFunctions, WhichFunctions};
pub use labels::{LABELS_MAX, Label, LabelFilter, LabelQuery, LabelRow, RemoveLabels, SetLabels};
pub use owners::VerifyType;
pub use path::{LINE_CHARACTERS_MAX, ObjectPath};
pub use prefetch::{Prefetch, Refresh, RefreshByTag, RefreshType, VARIANTS_MAX};
pub use profile::{
    AreaDefault, DEFAULT as DEFAULT_PROFILE, LINES_PER_CALL_MAX, PerCall, Profile, Queue, QueueUnit, Wording,
};
pub use read::{BODY_BYTES_MAX, Format, Incoming, Params, Product, Request, VERSION_2014, WINDOW, read};
pub use refusal::{Fault, Refusal};
pub use render::{Envelope, PAGES, Rendered, refuse, render};
pub use reply::{
    Bucket, Description, DomainDetail, DomainTls, FunctionRow, FunctionSet, PrefetchDetail, PrefetchedUrl, Quota,
    Reply, TaskRow, UNLIMITED, WaitedFor, Waiting,
};
pub use rules::{Rules, TASK_HISTORY_DAYS};
pub use service::{ChargeType, OpenedService, ServiceStatus};
pub use sign::{AccessKey, Ask, sign_v1, sign_v3};
pub use sources::{Source, SourceType};
pub use steering::{PreloadJob, PreloadState, PreloadTask, PreloadUrl, Steer, SteerTasks, SteeredTask};
pub use tasks::{Page, TASK_IDS_MAX, TaskFilter, TaskQuery, TaskStatus, TaskType};
