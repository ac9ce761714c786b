//! stub
use crate::{app::App, keys::Keys, scheduler::Scheduler, link::Link};
pub(crate) struct Door {}
impl Door { pub(crate) fn new(_: App, _: Keys, _: Scheduler, _: Link) -> Door { Door {} } }
pub(crate) async fn serve(_d: Door, _l: tokio::net::TcpListener, _s: tokio_util::sync::CancellationToken) {}
