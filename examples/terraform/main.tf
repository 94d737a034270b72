# Key pairs of a controller of one's own, through the provider that was made for the public service. docs/v3.md has what each call
# comes down to. Access key and secret key, by HW_ACCESS_KEY and HW_SECRET_KEY: `kps init`, or `kps access-key create`.
terraform {
  required_providers {
    huaweicloud = {
      source  = "huaweicloud/huaweicloud"
      version = ">= 1.36.0"
    }
  }
}

variable "controller" {
  description = "Where `kps serve --listen` is reached, with a slash at the end."
  type        = string
  default     = "https://kps.example.com:8443/"
}

variable "project_id" {
  description = "What `kps init` calls the project."
  type        = string
}

variable "tenant_id" {
  description = "What `kps init` calls the tenant."
  type        = string
}

variable "server_id" {
  description = "The id that `kps server show` tells."
  type        = string
}

variable "password" {
  description = "Root's password there, until the key pair is bound."
  type        = string
  sensitive   = true
}

provider "huaweicloud" {
  region      = "here" # any word: there is one
  project_id  = var.project_id
  domain_id   = var.tenant_id
  cacert_file = "tls.crt"             # of the controller's home
  auth_url    = "${var.controller}v3" # here and below: so that nothing is asked of the public cloud, nor signed for it
  cloud       = "kps.invalid"
  endpoints = {
    kps = var.controller
  }
}

# Made there; the private half stays in custody.
resource "huaweicloud_kps_keypair" "ops" {
  name            = "ops"
  scope           = "account"
  encryption_type = "default"
  description     = "for those who look after the web servers"
}

# One's own: its private half is never seen. The comment is kept, the newline is not.
resource "huaweicloud_kps_keypair" "laptop" {
  name       = "laptop"
  public_key = trimspace(file(pathexpand("~/.ssh/id_ed25519.pub")))
}

# Destroying this leaves the key pair bound: kps unbind.
resource "huaweicloud_kps_keypair_associate" "web" {
  keypair_name = huaweicloud_kps_keypair.ops.name

  server {
    id = var.server_id
    auth {
      type = "password"
      key  = var.password
    }
  }
}
