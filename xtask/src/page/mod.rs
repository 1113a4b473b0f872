//! What people see of an experiment: charts, tables, their files, and the report.

pub(crate) mod chart;
pub(crate) mod files;
pub(crate) mod report;
pub(crate) mod svg;
pub(crate) mod table;
