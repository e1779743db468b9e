#!/usr/bin/env bash
# Makes the secrets that deploy/cluster.yaml names, as files in a folder (default: ./secrets). What is there already stays.
#   deploy/secrets.sh [FOLDER [CACHE_HOST [PAGES_HOST]]]     hosts of the two Redis servers; left out: cache and pages
set -euo pipefail
folder=${1:-secrets} cache=${2:-cache} pages=${3:-pages}

mkdir -p "$folder"
chmod 700 "$folder"
fresh() { [ -e "$folder/$1" ] || openssl rand -hex 32 > "$folder/$1"; }
fresh key-team          # what clients send: Authorization: Bearer ...
fresh seal              # auth.secret_file
fresh redis-password
fresh ray-token         # RAY_AUTH_TOKEN_PATH of every node, where Kubernetes doesn't see to it
url() { rm -f "$folder/$1" && printf 'redis://:%s@%s:6379/0\n' "$(cat "$folder/redis-password")" "$2" > "$folder/$1"; }
url cache-url "$cache"
url pages-url "$pages"
chmod 444 "$folder"/*   # a container's user reads them; the folder lets nobody else in
