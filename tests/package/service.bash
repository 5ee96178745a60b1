# The program as a service, without systemd. Sourced after steps.bash.
# shellcheck shell=bash disable=SC2154

service=''
stop_service() {
    [ -n "$service" ] || return 0
    # A traced service is a child of its tracer.
    pkill -TERM -P "$service" || kill -TERM "$service" || true
    within 10 fails kill -0 "$service" > /dev/null 2>&1 || kill -KILL "$service" || true
    service=''
}

# Starts "$@" as a service, waits for READY as systemd does, and sets $port.
start_service() {
    port=$(python3 - "$work/notify" "$work/log" "$@" << 'END'
import os, re, socket, subprocess, sys
name, log, *command = sys.argv[1:]
if os.path.exists(name):
    os.unlink(name)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(name)
notify.settimeout(20)
service = subprocess.Popen(
    command, env={**os.environ, "NOTIFY_SOCKET": name}, stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL, stderr=open(log, "w"), start_new_session=True,
)
said = ""
while "READY=1" not in said:
    said = notify.recv(4096).decode()
print(service.pid, re.search(r"listening on 127\.0\.0\.1:(\d+)", said)[1])
END
    ) || return 1
    service=${port% *}
    port=${port#* }
}
