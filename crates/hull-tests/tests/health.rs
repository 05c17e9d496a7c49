//! Health checks.

use hull_tests::Daemon;

#[test]
fn healthy_and_unhealthy() {
    Daemon::start().session(
        r#"
        $ hull run -d --name well --health-cmd 'echo fine' --health-interval 200ms busybox sleep 600
        <id>
        $ eventually sh -c 'hull ps --format "{{.Status}}" | grep "(healthy)"'; hull inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{(index .State.Health.Log 0).ExitCode}} {{(index .State.Health.Log 0).Output}}' well
        healthy 0 0 fine

        $ hull run -d --name ill --health-cmd 'echo sick; exit 1' --health-interval 100ms --health-retries 2 busybox sleep 600
        <id>
        $ eventually sh -c 'hull inspect -f "{{.State.Health.Status}}" ill | grep unhealthy'; hull ps --filter health=unhealthy --format '{{.Names}}'
        ill
        $ hull run -d --name slow --health-cmd 'sleep 600' --health-interval 100ms --health-timeout 200ms --health-retries 1 busybox sleep 600
        <id>
        $ eventually sh -c 'hull inspect -f "{{.State.Health.Status}}" slow | grep unhealthy'; hull inspect -f '{{(index .State.Health.Log 0).ExitCode}}' slow
        -1
        $ hull run -d --name start --health-cmd false --health-interval 100ms --health-retries 1 --health-start-period 1h busybox sleep 600
        <id>
        $ eventually sh -c 'test $(hull inspect -f "{{len .State.Health.Log}}" start) -ge 3'; hull inspect -f '{{.State.Health.Status}}' start
        starting
        $ hull run -d --name none --no-healthcheck busybox sleep 600
        <id>
        $ hull inspect -f '{{json .State.Health}}' none
        null
        "#,
    );
}
