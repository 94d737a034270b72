"""Examples for the document of /fleet/v1, by the name of a schema. What is secret in them opens nothing."""

from typing import Any

_AT = "2026-03-01T09:30:00.000Z"
_ID = "5c1d9a70b2f84e0c9b61f0a3d4e87256"
_SERVER_ID = "6f1d2c3b-8a40-4c55-9b1e-2f7a9d0c4e11"
_TASK_ID = "2d7be0f4-91c6-4b1d-8e1f-5a30c9f7b6aa"
_KEY_ID = "b2a4f0de-3f61-4a83-9c0e-7f5f7b1d2c33"
_PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOWxCUbFNhVtEDPHD70R2aCA+L7Bu80ENfedo+s7y9PE ops"
_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOWxCUbFNhVtEDPHD70R2aCA+L7Bu80ENfedo+s7y9PE"
_FILE = "-----BEGIN OPENSSH PRIVATE KEY-----\n...\n-----END OPENSSH PRIVATE KEY-----\n"
_TEXT = "c29tZXRoaW5nIHNtYWxs"  # Base64
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

_KEYPAIR = {
    "name": "ops", "type": "ed25519", "scope": "account", "managed": True, "master_key_id": _KEY_ID, "public_key": _PUBLIC,
    "fingerprint": "SHA256:2mQF0g0hYy6rB0mK5m3pG4c2o0o7Qd0Vn9v7yqj2b1E",
    "fingerprint_md5": "0a:1b:2c:3d:4e:5f:60:71:82:93:a4:b5:c6:d7:e8:f9", "warnings": [], "created_at": _AT, "id": _ID,
}  # fmt: skip
_BINDING = {
    "login": "root", "keypair": "ops", "another_users": False, "proof": "logged_in", "closed_password_login": True,
    "task_id": _TASK_ID, "created_at": _AT,
}  # fmt: skip
_SERVER = {
    "id": _SERVER_ID, "name": "web-1", "host": "web-1.example.net", "port": 22, "login": "root", "labels": {"stage": "demo"},
    "keypair": "ops", "bindings": [_BINDING], "password_login": "off", "host_key": _HOST_KEY, "trust_on_first_use": False,
    "after_reset": None, "jump": [],
    "old_algorithms": [], "reset_root": None,
}  # fmt: skip
_TASK = {
    "id": _TASK_ID, "number": 7, "server": "web-1", "login": "root", "operation": "bind", "status": "failed",
    "server_state": "as_before",
    "phase": "connect", "cause": "connection_timed_out", "message": "web-1: 192.0.2.1:22 does not answer",
    "evidence": {"host": "192.0.2.1", "port": 22}, "proof": [], "handling": "Look whether it is up.", "retryable": True,
    "created_at": _AT, "started_at": _AT, "finished_at": _AT, "retry_of": None, "rollout_id": None,
    "request": {"keypair": "ops"},
}  # fmt: skip
_ROLLOUT = {
    "id": _TASK_ID, "operation": "replace", "request": {"keypair": "ops"}, "servers": 200, "state": "running", "reason": "",
    "strategy": {"canary": "5", "batch": "10%", "max_failures": "2%", "per_label": "zone"},
    "created_at": _AT, "finished_at": None, "user_id": _ID,
    "plans": False, "plan_id": None, "good_until": None,
}  # fmt: skip
_PROGRESS = _ROLLOUT | {
    "states": {"waiting": 150, "running": 9, "succeeded": 40, "unchanged": 0, "failed": 1, "cancelled": 0, "held": 0},
    "causes": {"disk_full": 1}, "labels": {"zone-a": {"succeeded": 40, "failed": 1}}, "held": {},
}  # fmt: skip
_SEALED_PLAN = {
    "head": {
        "kps": "rollout plan 1", "id": _TASK_ID, "tenant_id": _ID, "operation": "bind", "request": {"keypair": "ops"},
        "keypair": {"name": "ops", "id": _ID, "fingerprint": _KEYPAIR["fingerprint"]}, "strategy": {"canary": "1"},
        "made_by": "alice", "made_at": "2026-03-01T09:30:00.000000Z", "good_until": "2026-03-02T09:30:00.000000Z", "servers": 200,
        "planned": 199, "refused": {"wrong_password": 1}, "servers_sha256": _DIGEST, "shown_sha256": _DIGEST,
    },
    "signature": _DIGEST + _DIGEST,
}  # fmt: skip
_SECRET = {
    "id": _SERVER_ID, "name": "web-1-root", "kind": "password", "scope": "account", "description": "", "server": "web-1",
    "login": "root", "version": "v4", "works": "v4", "rotates_every": "30d", "rotates_at": _AT, "created_at": _AT,
    "updated_at": _AT,
}  # fmt: skip
_SECRET_VERSION = {
    "version": "v4", "stages": ["SYSCURRENT"], "binary": False, "sealed": True, "created_at": _AT, "expires_at": None,
}  # fmt: skip
_SECRET_ROTATION = {
    "id": _KEY_ID, "secret": "web-1-root", "version": "v4", "by": "schedule", "state": "done", "tries": 1, "proved": True,
    "cause": None, "message": "", "task_id": _TASK_ID, "created_at": _AT, "ended_at": _AT, "again_at": None,
}  # fmt: skip
_POLICY = {
    "name": "prod", "servers": "env=prod", "max_age_days": 90, "remind_days": [14, 7, 1], "grace_days": 7, "key_type": None,
    "strategy": {"canary": "5", "batch": "10%", "window": "22:00-04:00 Europe/Berlin"}, "paused": False, "user_id": _ID,
    "created_at": _AT,
}  # fmt: skip
_ROTATION = {
    "id": _TASK_ID, "policy": "prod", "old": "ops", "new": "ops-v2", "state": "rolling",
    "reason": f"rollout {_KEY_ID} is under way", "rollout_id": _KEY_ID, "created_at": _AT, "removed_at": None, "ended_at": None,
}  # fmt: skip
_DOOR = {
    "id": _ID, "server": "web-1", "server_id": _SERVER_ID, "login": "deploy", "network": "203.0.113.0/24", "seconds": 1800,
    "state": "open", "confirmed": False, "reason": "no key gets in since the update", "user_id": _ID, "order_id": _KEY_ID,
    "task_id": _TASK_ID, "created_at": _AT, "opened_at": _AT, "deadline": _AT, "left_seconds": 1712, "closed_at": None,
    "closed_by": None, "last_task_id": None, "note": "", "password_works": False,
}  # fmt: skip
_DOOR_PASSWORD = {
    "server": "web-1",
    "login": "deploy",
    "secret": "web-1-deploy",
    "task_id": _TASK_ID,
    "password": "...",
}
_DOOR_ORDER = {
    "id": _KEY_ID, "does": "open", "state": "asked", "reason": "no key gets in since the update", "seconds": 1800,
    "doors": [_ID], "user_id": _ID, "created_at": _AT, "rules": ["zone=prod"], "approve_until": _AT, "decided_by": None,
    "decided_at": None,
}  # fmt: skip
_EVENT = {
    "id": 42, "number": 40, "user_id": _ID, "task_id": _TASK_ID, "server_id": _SERVER_ID, "keypair_id": None,
    "kind": "task_started", "phase": None, "detail": {}, "at": _AT,
}  # fmt: skip
_REACH = {
    "tenant_id": _ID, "first": 1, "previous": "", "number": 40, "digest": _DIGEST, "at": "2026-03-01T09:30:00.000000Z",
    "signature": _TEXT,
}  # fmt: skip
_USER: dict[str, Any] = {
    "name": "alice", "role": "operator", "kind": "local", "external_id": None, "enabled": True, "source_networks": [],
    "created_at": _AT, "id": _ID,
}  # fmt: skip
_ACCESS_KEY = {
    "access_key": "KPSDEMOACCESSKEY0001", "user": "alice", "project_id": "9f86d081884c4d63a1b2c3d4e5f60718", "enabled": True,
    "created_at": _AT, "expires_at": None, "last_used_at": None,
}  # fmt: skip
_TEMPORARY_KEY = {
    "access_key": "KPSDEMOTEMPORARY0001", "user": "alice", "parent": "KPSDEMOACCESSKEY0001", "created_at": _AT, "expires_at": _AT,
}  # fmt: skip
_TOKEN = {
    "id": _ID, "user": "alice", "project_id": "9f86d081884c4d63a1b2c3d4e5f60718", "description": "nightly report",
    "created_at": _AT, "expires_at": _AT, "last_used_at": None,
}  # fmt: skip
_TENANT = {
    "name": "hall-2", "id": _ID, "projects": ["9f86d081884c4d63a1b2c3d4e5f60718"], "account_keypairs_since": None,
    "v3_accepts_lockout": False,
}  # fmt: skip
_MASTER_KEY = {
    "id": _KEY_ID, "alias": "orders", "spec": "AES_256", "usage": "ENCRYPT_DECRYPT", "origin": "kms", "state": "enabled",
    "default": False, "description": "", "version": 1, "created_at": _AT, "deletes_at": None, "material_expires_at": None,
    "rotation": {"every_days": None, "next_at": None, "last_at": None, "count": 0},
}  # fmt: skip
_DATA_KEY = {"key_id": _KEY_ID, "ciphertext": _TEXT}

EXAMPLES: dict[str, Any] = {
    "Keypair": _KEYPAIR,
    "MadeKeypair": _KEYPAIR | {"managed": False, "master_key_id": None, "private_key": _FILE},
    "PrivateHalf": {"name": "ops", "private_key": _FILE},
    "DecryptedPassword": {"name": "windows-1", "password": "..."},
    "Ready": {
        "status": "ready",
        "checks": {"database": "ok", "root_key": "ok", "disk": "ok", "runner": "ok"},
        "warnings": ["certificate_expires_soon"],
    },
    "Diagnosis": {
        "home": "/srv/kps",
        "served": True,
        "status": "warning",
        "findings": [
            {"about": "entropy", "status": "ok", "code": "", "seen": "getrandom(2) does not wait", "next_step": ""},
            {
                "about": "backup",
                "status": "warning",
                "code": "backup_old",
                "seen": "the newest was made at 2026-10-01 02:00Z, 12 days ago",
                "next_step": "kps backup --out FILE, each night, and keep it on another machine",
            },
        ],
    },
    "Server": _SERVER,
    "Binding": _BINDING | {"server": "web-1", "server_id": _SERVER_ID},
    "Login": {
        "server": "web-1",
        "server_id": _SERVER_ID,
        "login": "root",
        "own": True,
        "keypair": "ops",
        "another_users": False,
        "proof": "logged_in",
        "password_login": "off",
        "after_reset": False,
    },
    "Plan": {
        "id": _ID,
        "server": "web-1",
        "login": "root",
        "operation": "bind",
        "status": "unchanged",
        "cause": None,
        "message": "",
        "handling": None,
        "created_at": _AT,
        "finished_at": _AT,
        "plan": {"changes": []},
    },
    "Task": _TASK,
    "StartedTask": _TASK | {"status": "ready", "phase": "queued", "cause": None, "message": "", "evidence": {}, "handling": None},
    "Rollout": _ROLLOUT,
    "RolloutProgress": _PROGRESS,
    "RolloutReport": _PROGRESS
    | {
        "asked_by": "alice",
        "keypair": {"name": "ops", "fingerprint": _KEYPAIR["fingerprint"]},
        "at": _AT,
        "ended_at": _AT,
        "failed_by": [
            {
                "cause": "disk_full",
                "servers": 1,
                "meaning": "No space or quota was left for a few kilobytes.",
                "handling": "Free some space, then kps task retry ID.",
                "example": {
                    "server": "web-1",
                    "task_id": _TASK_ID,
                    "server_state": "as_before",
                    "message": "web-1: no space left",
                    "evidence": {},
                },
            }
        ],
        "not_done": [
            {
                "status": "failed",
                "cause": "disk_full",
                "why": None,
                "servers": 1,
                "names": ["web-1"],
                "next": f"kps rollout retry {_TASK_ID} --cause disk_full",
            }
        ],
        "over_time": {
            "seconds": 12.5,
            "points": [{"seconds": 0.4, "begun": 1, "done": 0, "failed": 0}],
            "marks": [{"seconds": 0.4, "what": "canary"}],
            "pauses": [{"seconds": 3.0, "until": 9.0, "what": "paused", "reason": "as somebody asked"}],
        },
    },
    "RolloutServer": {
        "position": 0,
        "server": "web-1",
        "login": "root",
        "label": "zone-a",
        "status": "failed",
        "server_state": "as_before",
        "cause": "disk_full",
        "tries": 1,
        "held": None,
        "task_id": _TASK_ID,
    },
    "StartedPlan": _ROLLOUT | {"plan_id": _TASK_ID, "left_out": {"wrong_password": 1}},
    "KeptPlan": _SEALED_PLAN,
    "SealedPlan": _SEALED_PLAN,
    "StartPlan": {"sealed": _SEALED_PLAN, "credentials": {"web-1": {"password": "..."}}},
    "PlanLook": {
        "position": 0,
        "server": "web-1",
        "server_id": _SERVER_ID,
        "login": "root",
        "seen": _DIGEST,
        "changes": [
            {"kind": "keys", "path": "/root/.ssh/authorized_keys", "login": "root", "made": False, "lines": ["+" + _PUBLIC]}
        ],
        "locked_out": [],
        "first": "",
        "cause": None,
        "message": "",
    },
    "Policy": _POLICY,
    "PolicyWithRotations": _POLICY | {"blocked": "", "rotations": [_ROTATION]},
    "Rotation": _ROTATION,
    "DueKey": {
        "policy": "prod",
        "keypair": "ops",
        "fingerprint": _KEYPAIR["fingerprint"],
        "standing": "due",
        "age_days": 91,
        "due_at": _AT,
        "created_at": _AT,
        "logins": 200,
        "elsewhere": 3,
        "obstacle": "",
        "rotation": _ROTATION,
    },
    "Door": _DOOR,
    "DoorOrder": _DOOR_ORDER,
    "DoorWithOrder": _DOOR | {"order": _DOOR_ORDER},
    "DoorsAsked": {"orders": [_DOOR_ORDER], "doors": [_DOOR], "passwords": [_DOOR_PASSWORD]},
    "DecidedDoors": {"order": _DOOR_ORDER, "doors": [_DOOR]},
    "DoorPassword": _DOOR_PASSWORD,
    "DoorRule": {"servers": "zone=prod", "minutes": 15, "user_id": _ID, "created_at": _AT},
    "DoorHook": {"url": "https://alerts.example.com/kps", "user_id": _ID, "created_at": _AT},
    "TakenOff": {"deleted": 3},
    "Ended": {"deleted": 1, "cancelled": 0},
    "Event": _EVENT,
    "ChainedEvent": _EVENT | {"tenant_id": _ID, "digest": _DIGEST, "signature": _TEXT},
    "AuditKey": {"tenant_id": _ID, "public_key": _TEXT},
    "Reach": _REACH,
    "AuditExport": {"kps": "audit export 1", "public_key": _TEXT, "checkpoints": [_REACH]} | _REACH,
    "AuditCheckpoint": {"kps": "audit checkpoint 1", "public_key": _TEXT} | _REACH,
    "Pruned": {"deleted": 39, "first": 40},
    "User": _USER,
    "DeletedUser": {"name": "alice", "keypairs": ["laptop"]},
    "AccessKey": _ACCESS_KEY,
    "TemporaryKey": _TEMPORARY_KEY,
    "MadeTemporaryKey": _TEMPORARY_KEY
    | {"project_id": "9f86d081884c4d63a1b2c3d4e5f60718", "secret_key": "demo-secret-key-for-examples-only-000001"}
    | {"security_token": "demo-security-token-for-examples-only-00001"},
    "Token": _TOKEN,
    "ConsoleLink": {"user": "alice", "code": "demo-code-for-examples-only-00000000000000001", "path": "/console/link"}
    | {"url": "https://kps.example.com:8443/console/link#demo-code-for-examples-only-00000000000000001", "expires_at": _AT},
    "MadeToken": _TOKEN | {"token": "kpst_demo-token-for-examples-only-0000000000001"},
    "MadeAccessKey": _ACCESS_KEY | {"secret_key": "demo-secret-key-for-examples-only-000001"},
    "Quota": {"name": "users", "used": 3, "limit": 50, "set": False},
    "Caller": {"user": "alice", "user_id": _ID, "role": "operator", "kind": "local"}
    | {"tenant": "home", "tenant_id": _ID, "project_id": _ID, "at_home": False},
    "Tenant": _TENANT,
    "MadeTenant": _TENANT
    | {"administrator": "administrator", "user_id": _ID, "access_key": "KPSDEMOACCESSKEY0001"}
    | {"secret_key": "demo-secret-key-for-examples-only-000001"},
    "MasterKey": _MASTER_KEY,
    "WholeMasterKey": _MASTER_KEY | {"versions": [{"version": 1, "created_at": _AT}], "tags": {"team": "a"}, "aliases": []},
    "KeyQuota": {"used": 3, "limit": 100, "grants_per_key": 100},
    "ImportParameters": {"key_id": _KEY_ID, "token": _TEXT, "public_key": _TEXT, "expires_at": _AT},
    "Grant": {
        "id": _ID,
        "key_id": _KEY_ID,
        "grantee": _ID,
        "operations": ["encrypt"],
        "issuer": _ID,
        "name": "",
        "retiring": None,
        "created_at": _AT,
    },
    "KeyAlias": {"alias": "alias/orders", "key_id": _KEY_ID, "created_at": _AT, "updated_at": _AT},
    "Encrypted": {"key_id": _KEY_ID, "algorithm": "SYMMETRIC_DEFAULT", "ciphertext": _TEXT},
    "Decrypted": {"key_id": _KEY_ID, "algorithm": "SYMMETRIC_DEFAULT", "plaintext": _TEXT},
    "ReEncrypted": {
        "key_id": _KEY_ID,
        "algorithm": "SYMMETRIC_DEFAULT",
        "ciphertext": _TEXT,
        "source_key_id": _KEY_ID,
        "source_algorithm": "SYMMETRIC_DEFAULT",
    },
    "DataKey": _DATA_KEY | {"plaintext": _TEXT},
    "EncryptedDataKey": _DATA_KEY | {"length": 32},
    "DecryptedDataKey": {"key_id": _KEY_ID, "plaintext": _TEXT, "length": 32, "digest": _TEXT},
    "DataKeyPair": _DATA_KEY | {"spec": "EC_P256", "public_key": _TEXT, "private_key": _TEXT},
    "RandomBits": {"random": _TEXT},
    "PublicHalf": {"key_id": _KEY_ID, "public_key": "-----BEGIN PUBLIC KEY-----\n...\n-----END PUBLIC KEY-----\n"},
    "Signature": {"key_id": _KEY_ID, "algorithm": "ECDSA_SHA_256", "signature": _TEXT},
    "Code": {"key_id": _KEY_ID, "algorithm": "HMAC_SHA_256", "mac": _TEXT},
    "Verdict": {"key_id": _KEY_ID, "algorithm": "ECDSA_SHA_256", "valid": True},
    "KeptSecret": _SECRET,
    "WholeSecret": _SECRET | {"versions": [_SECRET_VERSION]},
    "SecretVersion": _SECRET_VERSION,
    "OpenedSecret": {"name": "web-1-root", "value": "..."} | _SECRET_VERSION,
    "SecretRotation": _SECRET_ROTATION,
    "BegunSecretRotation": {"rotation": _SECRET_ROTATION, "task": _TASK | {"operation": "password-set"}},
    # What is sent.
    "NewSecret": {"name": "web-1-root", "server": "web-1", "login": "root"},
    "NewSecretVersion": {"value": "..."},
    "OpenSecret": {"stage": "SYSCURRENT"},
    "ChangedSecret": {"description": "of the console"},
    "MarkedVersion": {"version": "v3"},
    "RotateSecret": {},
    "SecretSchedule": {"every": "30d"},
    "NewKeypair": {"name": "ops", "type": "ed25519", "scope": "private", "managed": True},
    "ImportedKeypair": {"name": "laptop", "public_key": _PUBLIC},
    "ExportedKeypair": {"format": "ppk3", "passphrase": "..."},
    "EncryptedPassword": {"encrypted": _TEXT},
    "ManagedKeypair": {"private_key": _FILE},
    "ClearedKeypair": {},
    "MovedKeypair": {"master_key": "orders"},
    "NewServer": {"name": "web-1", "host": "web-1.example.net", "labels": {"stage": "demo"}, "host_key": _HOST_KEY},
    "ChangedServer": {"jump": ["gate-1"]},
    "NewOperation": {
        "operation": "bind",
        "servers": ["stage=demo"],
        "keypair": "ops",
        "credentials": {"web-1": {"password": "..."}},
    },
    "NewRollout": {
        "operation": "replace",
        "all": True,
        "keypair": "ops-2027",
        "strategy": {"canary": "5", "batch": "10%", "max_failures": "2%", "per_label": "zone"},
    },
    "RolloutStrategy": {"canary": "5", "batch": "10%", "max_failures": "2%", "window": "22:00-04:00 Europe/Berlin"},
    "ResumeRollout": {"credentials": {"web-2": {"password": "..."}}},
    "RetryRollout": {"cause": "wrong_password", "credentials": {"web-1": {"password": "..."}}},
    "SetPolicy": {
        "servers": "env=prod",
        "max_age_days": 90,
        "grace_days": 7,
        "strategy": {"canary": "5", "window": "22:00-04:00 Europe/Berlin"},
    },
    "RunPolicy": {"keypairs": ["ops"], "early": True},
    "NewDoors": {"servers": ["web-1"], "reason": "no key gets in since the update", "seconds": 1800, "login": "deploy"},
    "ExtendedDoors": {"doors": [_ID], "reason": "not through yet", "seconds": 900},
    "ClosedDoors": {"doors": [_ID]},
    "ApprovedDoors": {},
    "BegunDoors": {"credentials": {"web-1": {"password": "...", "password_of": "deploy"}}},
    "NewDoorRule": {"servers": "zone=prod", "minutes": 15},
    "NewDoorHook": {"url": "https://alerts.example.com/kps", "secret": "..."},
    "Retry": {"credential": {"password": "..."}},
    "Exported": {"first": 1, "number": 40, "digest": _DIGEST},
    "Prune": {"before": _AT},
    "NewUser": {"name": "alice", "role": "operator", "source_networks": ["192.0.2.0/24"]},
    "ChangedUser": {"enabled": False},
    "NewTemporaryKey": {"seconds": 900},
    "NewConsolePassword": {"password": "correct horse battery staple"},
    "NewConsoleLink": {"user": "alice", "minutes": 10},
    "NewToken": {"user": "alice", "seconds": 28800, "description": "nightly report"},
    "NewAccessKey": {"user": "alice", "days": 90},
    "ChangedAccessKey": {"enabled": False},
    "NewQuota": {"limit": 20, "user": "alice"},
    "ChangedTenant": {"v3_accepts_lockout": True},
    "NewTenant": {"name": "hall-2"},
    "NewMasterKey": {"alias": "orders"},
    "ChangedMasterKey": {"description": "for orders"},
    "Disabling": {},
    "Deletion": {"days": 30},
    "ImportBegun": {"algorithm": "RSAES_OAEP_SHA_256"},
    "Imported": {"token": _TEXT, "material": _TEXT},
    "NewGrant": {"grantee": "alice", "operations": ["encrypt", "decrypt"]},
    "Tags": {"tags": {"team": "a"}},
    "Alias": {"alias": "alias/orders", "key": "orders"},
    "Plain": {"plaintext": _TEXT},
    "Cipher": {"ciphertext": _TEXT},
    "ReEncryption": {"ciphertext": _TEXT, "destination": "orders"},
    "NewDataKey": {"bits": 256},
    "PlainDataKey": {"plaintext": _TEXT, "digest": _TEXT, "length": 15},
    "SealedDataKey": {"ciphertext": _TEXT},
    "NewDataKeyPair": {"spec": "EC_P256"},
    "Randomness": {"bits": 512},
    "ToSign": {"message": _TEXT, "algorithm": "ECDSA_SHA_256", "message_type": "RAW"},
    "Signed": {"message": _TEXT, "algorithm": "ECDSA_SHA_256", "message_type": "RAW", "signature": _TEXT},
    "ToCode": {"message": _TEXT, "algorithm": "HMAC_SHA_256"},
    "Coded": {"message": _TEXT, "algorithm": "HMAC_SHA_256", "mac": _TEXT},
}
