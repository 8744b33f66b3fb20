//! Prints what becomes of refused requests.

use rivals::{
    correctness::{CLIENTS, Scenario},
    print::line,
};

fn main() {
    for scenario in Scenario::ALL {
        let group = format!("correctness/{}", scenario.name());
        for client in CLIENTS {
            if scenario == Scenario::Rotating && !client.has_refresh_tokens {
                continue;
            }
            let findings = (client.run)(scenario);
            line(&group, client.name, "fetches", findings.fetches);
            line(&group, client.name, "accepted", findings.accepted);
            line(&group, client.name, "refused", findings.refused);
            line(&group, client.name, "errors", findings.errors);
            line(&group, client.name, "hung", findings.hung);
            match scenario {
                Scenario::AuthorityFailing => {
                    line(&group, client.name, "milliseconds", findings.time.as_millis());
                }
                Scenario::Rotating => {
                    let family = if findings.family_killed { "killed" } else { "alive" };
                    line(&group, client.name, "family", family);
                }
                _ => {}
            }
        }
    }
}
