//! `dns01_txt`: who publishes the records that the CA asks for. The variables' names are lego's, and the provider reads
//! them.

use crate::acme::secret::Secret;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::Text;
use crate::config::reader::all;
use crate::config::secret::resolved;
use crate::config::secret::stands_here;
use crate::config::value::DnsServer;
use crate::upstream::dns::Dns01;
use crate::upstream::dns::known;
use crate::upstream::dns::variables::Remark;

/// Who solves, and whether secrets for that are written in this file.
pub(crate) struct Solving {
    pub(crate) dns01: Dns01,
    pub(crate) secrets_stand_here: bool,
}

/// `dns01_txt`, or `dns01` as the Go program's installer spells it.
pub(crate) fn read(config: &Section<'_>) -> Result<Option<Solving>, Reported> {
    let (named, spelled) = (
        config.section("dns01_txt", solver),
        config.section("dns01", solver),
    );
    match (named?, spelled?) {
        (Some(solver), Some(_)) => {
            config
                .place("dns01")
                .warn("has no effect here: dns01_txt is used");
            Ok(Some(solver))
        }
        (solver, spelled) => Ok(solver.or(spelled)),
    }
}

fn solver(section: &Section<'_>) -> Result<Option<Solving>, Reported> {
    let name = section.text("provider");
    let servers = section.all_parsed::<DnsServer>("dns_servers");
    let variables = section.map("env_vars");
    let (name, servers, variables) = (name?, servers?, variables?);
    let Some(name) = name else {
        if !(servers.is_empty() && variables.is_empty()) {
            section
                .warn("has no effect here: provider is missing; write the name of one, or remove the rest");
        }
        return Ok(None);
    };
    let for_a_program = name.value == "exec";
    let values = all(variables.iter().map(|(variable, text)| match for_a_program {
        true => Ok(((*variable).to_owned(), resolved(text)?)),
        false => in_a_file(variable, text),
    }))?;
    // What stands here is a value, or, under lego's `NAME_FILE`, a path.
    let written: Vec<Secret> = variables
        .iter()
        .filter(|(variable, text)| stands_here(text) && (for_a_program || !variable.ends_with("_FILE")))
        .map(|(_, text)| Secret::new(text.value.trim().to_owned()))
        .collect();
    let Some(reading) = known::read(name.value, values.into_iter().collect()) else {
        let known: Vec<_> = known::names().map(|name| format!("\"{name}\"")).collect();
        return Err(name.wrong(format_args!(
            "is no provider of this version; the known ones: {}. With \"exec\" a program of your own does it, and with \
             \"httpreq\" a server of your own",
            known.join(", ")
        )));
    };
    let place = |remark: &Remark| {
        let name = Some(remark.variable.as_str());
        let mut written = variables.iter();
        let written = written.find(|(written, _)| {
            Some(*written) == name || (!for_a_program && written.strip_suffix("_FILE") == name)
        });
        written.map(|(_, text)| text.place.clone())
    };
    let env_vars = section.place("env_vars");
    for remark in &reading.warnings {
        match place(remark) {
            Some(place) => place.warn(&remark.text),
            None => env_vars.warn(format_args!("{} {}", remark.variable, remark.text)),
        }
    }
    let mut reported = None;
    for remark in &reading.errors {
        reported = Some(match place(remark) {
            Some(place) => place.error(&remark.text),
            None => env_vars.error(format_args!("{} {}", remark.variable, remark.text)),
        });
    }
    match (reading.settings, reported) {
        (Ok(settings), None) => Ok(Some(Solving {
            secrets_stand_here: settings.secrets.iter().any(|secret| written.contains(secret)),
            dns01: Dns01 {
                servers: servers.into_iter().map(|DnsServer(address)| address).collect(),
                ..settings
            },
        })),
        (Ok(_) | Err(_), Some(reported)) => Err(reported),
        (Err(_), None) => Err(env_vars.error("can not be used")),
    }
}

/// lego takes `NAME_FILE` for the path of a file with the value of `NAME`.
fn in_a_file(variable: &str, text: &Text<'_>) -> Result<(String, Secret), Reported> {
    match variable.strip_suffix("_FILE") {
        Some(name) if !text.value.is_empty() => {
            let value = format!("file:{}", text.value);
            let text = Text {
                value: &value,
                place: text.place.clone(),
            };
            Ok((name.to_owned(), resolved(&text)?))
        }
        Some(_) | None => Ok((variable.to_owned(), resolved(text)?)),
    }
}
