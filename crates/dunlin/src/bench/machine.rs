//! What a measurement was taken on: numbers mean nothing without it.

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) architecture: &'static str,
    pub(super) cpu: Option<String>,
    pub(super) cpus: usize,
    /// How many threads wanted to run, on average over the last minute.
    pub(super) load: Option<f64>,
    /// Whether dunlin itself was compiled without optimisation.
    pub(super) debug_build: bool,
}

impl Machine {
    pub(super) fn look() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            architecture: std::env::consts::ARCH,
            cpu: model.map(|(_, name)| name.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load: load.split(' ').next().and_then(|load| load.parse().ok()),
            debug_build: cfg!(debug_assertions),
        }
    }

    pub(super) fn text(&self) -> String {
        let cpu = self.cpu.as_deref().unwrap_or("unknown CPU");
        let load = self.load.map(|load| format!(", load {load} before")).unwrap_or_default();
        let debug = if self.debug_build { "; DEBUG BUILD of dunlin: times of its own parts mean nothing" } else { "" };
        format!("{}, {cpu}, {} threads{load}{debug}", self.architecture, self.cpus)
    }
}
