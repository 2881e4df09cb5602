{{- define "acme-proxy.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "acme-proxy.selector" -}}
app.kubernetes.io/name: acme-proxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "acme-proxy.labels" -}}
{{ include "acme-proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "acme-proxy.eabSecret" -}}
{{- $eab := .Values.ca.eab -}}
{{- if and $eab.existingSecret (or $eab.kid $eab.hmacKey) -}}
{{- fail "ca.eab: give existingSecret, or kid and hmacKey, and not both" -}}
{{- else if $eab.existingSecret -}}
{{- $eab.existingSecret -}}
{{- else if and $eab.kid $eab.hmacKey -}}
{{- include "acme-proxy.name" . }}-eab
{{- else if or $eab.kid $eab.hmacKey -}}
{{- fail "ca.eab: kid and hmacKey belong together" -}}
{{- end -}}
{{- end -}}

{{- define "acme-proxy.databaseSecret" -}}
{{- $database := .Values.database -}}
{{- $rootFile := "/run/secrets/acme-proxy-database/root.pem" -}}
{{- if not $database.url -}}
{{- if or $database.existingSecret $database.pool $database.password $database.secret $database.root -}}
{{- fail "database: nothing of it is used without its url: give database.url" -}}
{{- end -}}
{{- else if or (regexMatch "//.*:.*@" $database.url) (regexMatch "[?&](ssl)?password=" $database.url) -}}
{{- fail "database.url: a password in it would be in the ConfigMap: take it out, and give database.password or existingSecret" -}}
{{- else if and $database.existingSecret (or $database.password $database.secret) -}}
{{- fail "database: give existingSecret, or password and secret, and not both" -}}
{{- else if and $database.existingSecret $database.root -}}
{{- fail "database.root: with existingSecret it is that secret's key root.pem: put it there, and take it out here" -}}
{{- else if $database.existingSecret -}}
{{- $database.existingSecret -}}
{{- else if not (and $database.password $database.secret) -}}
{{- fail "database: give existingSecret, or password and secret" -}}
{{- else if and $database.root (not (contains (printf "sslrootcert=%s" $rootFile) $database.url)) -}}
{{- fail (printf "database.root: for it to be used, database.url has to say sslrootcert=%s" $rootFile) -}}
{{- else -}}
{{- include "acme-proxy.name" . }}-database
{{- end -}}
{{- end -}}

{{- define "acme-proxy.replicas" -}}
{{- $replicas := .Values.replicas | default (ternary 3 1 (not (empty .Values.database.url))) | int -}}
{{- if and (gt $replicas 1) (not .Values.database.url) -}}
{{- fail "replicas: the embedded store belongs to one process; more than one needs a PostgreSQL: give database.url" -}}
{{- end -}}
{{- $replicas -}}
{{- end -}}

{{- define "acme-proxy.configuration" -}}
{{- $ca := dict "ca_url" .Values.ca.url -}}
{{- if .Values.ca.email -}}
{{- $_ := set $ca "account_email" .Values.ca.email -}}
{{- end -}}
{{- if include "acme-proxy.eabSecret" . -}}
{{- $_ := set $ca "eab_kid" "file:/run/secrets/acme-proxy/kid" -}}
{{- $_ := set $ca "eab_hmac_key" "file:/run/secrets/acme-proxy/hmac-key" -}}
{{- end -}}
{{- $db := dict "type" "sled" "dataSource" "/var/lib/acme-proxy/sled" -}}
{{- if .Values.database.url -}}
{{- $secrets := "file:/run/secrets/acme-proxy-database" -}}
{{- $db = dict
  "type" "postgresql"
  "dataSource" .Values.database.url
  "password" (printf "%s/password" $secrets)
  "secret" (printf "%s/secret" $secrets) -}}
{{- if .Values.database.pool -}}
{{- $_ := set $db "pool" (int .Values.database.pool) -}}
{{- end -}}
{{- $_ := set $ca "shutdown_delay" "15s" -}}
{{- end -}}
{{- $base := dict
  "address" ":443"
  "metricsAddress" ":9123"
  "dnsNames" .Values.dnsNames
  "commonName" (first .Values.dnsNames)
  "logger" (dict "format" "json")
  "db" $db
  "authority" (dict "type" "externalcas" "config" $ca "provisioners" .Values.provisioners) -}}
{{- if hasKey .Values.config "db" -}}
{{- fail "config: db comes from the values database and persistence" -}}
{{- end -}}
{{- mergeOverwrite $base (deepCopy .Values.config) | toPrettyJson -}}
{{- end -}}
