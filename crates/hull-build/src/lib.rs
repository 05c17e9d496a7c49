//! Dockerfile to image: parse, plan, cache, execute.

pub mod dockerfile;
pub mod ignore;
