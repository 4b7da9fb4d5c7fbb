//! Moves, as jobs that can be watched and given up.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dunlin_base::unhex;
use dunlin_handover::MigrationId;
use dunlin_handover::statistics::Statistics;
use dunlin_keep_link::{About, Order};
use tokio::sync::watch;

use crate::error::NodeError;
use crate::folder;
use crate::keep::{Keep, lock};
use crate::model::{JobInfo, JobState, MigrateRequest, PhaseMark, StatisticsInfo};

/// Jobs that are remembered after their end.
const REMEMBERED: usize = 256;
/// Longest file of a job.
const LIMIT: u64 = 256 << 10;
/// Most phases that are kept of one job.
const PHASES: usize = 200;

/// A move.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) migration: MigrationId,
    info: watch::Sender<JobInfo>,
    begun: Instant,
    keep: Mutex<Weak<Keep>>,
    abort: Mutex<bool>,
}

/// All of a node's.
#[derive(Debug)]
pub(crate) struct Jobs {
    folder: PathBuf,
    list: Mutex<VecDeque<Arc<Job>>>,
}

impl Jobs {
    /// Reads those of earlier lives of the node; what was going on then is over.
    pub(crate) fn open(folder: &Path) -> Result<Self, NodeError> {
        folder::make(folder)?;
        let mut list = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(NodeError::file(folder, "read"))? {
            let path = entry.map_err(NodeError::file(folder, "read"))?.path();
            let Some(bytes) = folder::read(&path, LIMIT)? else { continue };
            let Ok(mut info) = serde_json::from_slice::<JobInfo>(&bytes) else { continue };
            if !info.state.is_over() {
                info.state = JobState::Failed;
                info.message = Some("the node ended meanwhile; `dunlin describe` says where the service is".to_owned());
            }
            let migration = MigrationId(unhex(&info.id).unwrap_or_default());
            list.push(Job::of(migration, info));
        }
        list.sort_by(|a, b| a.info.borrow().started.total_cmp(&b.info.borrow().started));
        let jobs = Self { folder: folder.to_owned(), list: Mutex::new(list.into_iter().map(Arc::new).collect()) };
        jobs.forget();
        Ok(jobs)
    }

    pub(crate) fn begin(&self, service: &str, from: &str, request: &MigrateRequest) -> Result<Arc<Job>, NodeError> {
        let migration = MigrationId(folder::random()?);
        let info = JobInfo {
            id: migration.to_string(),
            service: service.to_owned(),
            from: from.to_owned(),
            to: request.to.clone(),
            mode: request.mode,
            state: JobState::Running,
            phase: "preparing".to_owned(),
            phases: Vec::new(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1e3),
            message: None,
            blocked: Vec::new(),
            connections: 0,
            statistics: StatisticsInfo::default(),
        };
        let job = Arc::new(Job::of(migration, info));
        lock(&self.list).push_back(job.clone());
        self.save(&job);
        self.forget();
        Ok(job)
    }

    pub(crate) fn list(&self) -> Vec<JobInfo> {
        lock(&self.list).iter().map(|job| job.info()).collect()
    }

    /// By its id, or the beginning of it.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Job>, NodeError> {
        let list = lock(&self.list);
        let mut found = list.iter().filter(|job| !id.is_empty() && job.info.borrow().id.starts_with(id));
        match (found.next(), found.next()) {
            (Some(job), None) => Ok(job.clone()),
            (None, _) => Err(NodeError::NotFound(format!("there is no job {id}: `dunlin job ls` lists them"))),
            _ => Err(NodeError::Invalid(format!("several jobs begin with {id}: write more of it"))),
        }
    }

    /// Writes down how a job ended, or that it began.
    pub(crate) fn save(&self, job: &Job) {
        let info = job.info();
        if let Ok(bytes) = serde_json::to_vec(&info) {
            // A full disk loses the job's history, not the service.
            let _lost = std::fs::write(self.folder.join(&info.id), bytes);
        }
    }

    fn forget(&self) {
        let mut list = lock(&self.list);
        while list.len() > REMEMBERED {
            let Some(at) = list.iter().position(|job| job.info.borrow().state.is_over()) else { return };
            if let Some(job) = list.remove(at) {
                let _gone = std::fs::remove_file(self.folder.join(&job.info.borrow().id));
            }
        }
    }
}

impl Job {
    fn of(migration: MigrationId, info: JobInfo) -> Self {
        let (keep, abort) = (Mutex::new(Weak::new()), Mutex::new(false));
        Self { migration, info: watch::Sender::new(info), begun: Instant::now(), keep, abort }
    }

    pub(crate) fn info(&self) -> JobInfo {
        self.info.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<JobInfo> {
        self.info.subscribe()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut JobInfo)) {
        self.info.send_modify(change);
    }

    pub(crate) fn phase(&self, name: &str) {
        let at_ms = crate::model::milliseconds(self.begun.elapsed());
        self.change(|info| {
            name.clone_into(&mut info.phase);
            if info.phases.len() < PHASES {
                info.phases.push(PhaseMark { phase: name.to_owned(), at_ms });
            }
        });
    }

    pub(crate) fn measured(&self, statistics: &Statistics) {
        self.change(|info| info.statistics = statistics.into());
    }

    pub(crate) fn end(&self, state: JobState, message: Option<String>) {
        self.change(|info| {
            info.state = state;
            info.message = message;
        });
    }

    /// The keep that can give it up.
    pub(crate) fn carried_by(&self, keep: &Arc<Keep>) -> bool {
        *lock(&self.keep) = Arc::downgrade(keep);
        !*lock(&self.abort)
    }

    pub(crate) fn is_aborted(&self) -> bool {
        *lock(&self.abort)
    }

    /// Asks for its end. It may be too late: then it goes through.
    pub(crate) fn abort(&self) -> Result<(), NodeError> {
        if self.info.borrow().state.is_over() {
            return Err(NodeError::Conflict("the job is over".to_owned()));
        }
        *lock(&self.abort) = true;
        let keep = lock(&self.keep).upgrade();
        match keep {
            Some(keep) => {
                let migration = self.migration;
                keep.order(|order| Order::Cancel(About { order, migration }), &[]).map(drop)
            }
            // It has not begun yet, and will see this.
            None => Ok(()),
        }
    }
}
