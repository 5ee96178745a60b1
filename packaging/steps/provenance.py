"""Prints the provenance of files: an in-toto statement with SLSA's predicate, signed, in a DSSE envelope.

    provenance.py BUILD_INFO TARGETS KEY FILE…

It claims SLSA Build L1 and no more, because the build runs on the machine of whoever signs. The
signature is RSASSA-PKCS1-v1_5 with SHA-256, which takes no OpenPGP to verify. gpg-agent makes it, so the
key may be on a smart card.

Sources: in-toto Statement v1, SLSA provenance v1, DSSE v1, and gpg-agent's Assuan protocol.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SITE = "https://wsecho.example/"
# gpg's marks of keys that are revoked, expired, invalid or not to be trusted.
REFUSED = ("r", "e", "i", "n")


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def statement(info, targets, files):
    """What these files are, and how they were made."""
    source = {"uri": "git+" + SITE}
    # A modified checkout has no commit, and an unpacked source archive knows only its first digits.
    if re.fullmatch("[0-9a-f]{40}", info["commit"]):
        source["digest"] = {"gitCommit": info["commit"]}
    lock = {"name": "Cargo.lock", "digest": {"sha256": info["cargo_lock_sha256"]}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": os.path.basename(path), "digest": {"sha256": sha256(path)}} for path in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": SITE + "packaging/build/v1",
                "externalParameters": {"targets": targets, "version": info["version"], "target": info["target"]},
                "internalParameters": info,
                "resolvedDependencies": [source, lock],
            },
            "runDetails": {"builder": {"id": SITE + "packaging/build/slsa-build-l1"}},
        },
    }


def signing_key(key):
    """The fingerprint and keygrip of the RSA key that gpg would sign with: its newest that may sign."""
    command = ["gpg", "--batch", "--with-colons", "--with-keygrip", "--list-secret-keys", key]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    found, usable = None, False
    for line in listed.splitlines():
        fields = line.split(":")
        if fields[0] in ("sec", "ssb"):
            # Lower case: this key's own abilities; capitals are those of the whole.
            usable = fields[1] not in REFUSED and fields[3] == "1" and "s" in fields[11]
        elif fields[0] == "fpr":
            fingerprint = fields[9]
        elif fields[0] == "grp" and usable:
            found = (fingerprint, fields[9])
    if not found:
        sys.exit("provenance: {} has no RSA key that may sign".format(key))
    return found


def sign(keygrip, message):
    """The bare signature of a message."""
    digest = hashlib.sha256(message).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        answer = os.path.join(folder, "answer")
        commands = "SIGKEY {}\nSETHASH --hash=sha256 {}\n/datafile {}\nPKSIGN\n/bye\n".format(keygrip, digest, answer)
        agent = subprocess.run(["gpg-connect-agent"], input=commands.encode(), stdout=subprocess.PIPE, check=True)
        with open(answer, "rb") as data:
            value = data.read()
    # (7:sig-val(3:rsa(1:s512:…)))
    start = re.match(rb"\(7:sig-val\(3:rsa\(1:s(\d+):", value)
    if not start:
        sys.exit("provenance: gpg-agent does not sign: {}".format(agent.stdout.decode().strip()))
    return value[start.end() : start.end() + int(start.group(1))]


def main():
    info_path, targets, key, *files = sys.argv[1:]
    with open(info_path, encoding="utf-8") as file:
        info = json.load(file)
    payload = json.dumps(statement(info, targets.split(), files)).encode()
    fingerprint, keygrip = signing_key(key)
    message = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    signature = {"keyid": fingerprint, "sig": base64.b64encode(sign(keygrip, message)).decode()}
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [signature],
    }
    print(json.dumps(envelope))


main()
