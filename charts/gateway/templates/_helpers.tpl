{{- define "gateway.fullname" -}}
{{- /* Aliases distinguish several gateways in one release. */ -}}
{{- $own := eq .Chart.Name "gateway" | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- default $own .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{- define "gateway.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end }}

{{- define "gateway.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "gateway.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- /* Converts a duration such as 500ms, 1m30s or 1.5h to milliseconds, rounded down. */ -}}
{{- define "gateway.milliseconds" -}}
{{- $text := toString . -}}
{{- if eq $text "0" -}}{{- $text = "0s" -}}{{- end -}}
{{- if not (regexMatch "^([0-9]+([.][0-9]+)?(us|ms|s|m|h|d))+$" $text) -}}{{- fail (printf "%q is not a duration: write 500ms, 10s, 1m30s or 1h" $text) -}}{{- end -}}
{{- $unit := dict "us" 0.001 "ms" 1.0 "s" 1000.0 "m" 60000.0 "h" 3600000.0 "d" 86400000.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+[a-z]+" $text -1 -}}
{{- $sum = addf $sum (mulf (regexFind "^[0-9.]+" . | float64) (get $unit (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- floor $sum | int64 -}}
{{- end }}

{{- /* The ports of a backend's `listen`; none for a backend without an address, which is only checked. */ -}}
{{- define "gateway.portsOf" -}}
{{- $name := .name -}}
{{- $mode := .mode -}}
{{- $ports := list -}}
{{- $listen := .backend.listen | default list -}}
{{- $all := kindIs "slice" $listen | ternary $listen (list $listen) -}}
{{- $here := list -}}
{{- range $all -}}
{{- if regexMatch ":[0-9]+$" . -}}
{{- $port := regexFind "[0-9]+$" . | int -}}
{{- if or (lt $port 1) (gt $port 65535) -}}{{- fail (printf "config.backends.%s.listen: %q has no port between 1 and 65535" $name .) -}}{{- end -}}
{{- if and (eq $mode "deployment") (regexMatch "^(127\\.|localhost:|\\[::1\\])" .) -}}{{- $here = append $here . -}}
{{- else -}}{{- $ports = append $ports $port -}}{{- end -}}
{{- else if not (hasPrefix "/" .) -}}
{{- fail (printf "config.backends.%s.listen: %q has no port, but a Service needs one: add a port" $name .) -}}
{{- end -}}
{{- end -}}
{{- if and $here (not $ports) -}}{{- fail (printf "config.backends.%s.listen: other pods cannot reach %q: use 0.0.0.0" $name (first $here)) -}}{{- end -}}
{{- if and $all (not $ports) (eq $mode "deployment") -}}{{- fail (printf "config.backends.%s.listen: other pods cannot reach a Unix socket, and a Service needs a port: add 0.0.0.0:port" $name) -}}{{- end -}}
{{- dict "ports" ($ports | uniq | sortAlpha) | toYaml -}}
{{- end }}

{{- define "gateway.serviceName" -}}{{ . | replace "_" "-" | lower }}{{- end }}

{{- /* Name and ports of everything that pods connect to. */ -}}
{{- define "gateway.ports" -}}
{{- $found := dict -}}
{{- range $name, $backend := .Values.config.backends -}}
{{- with (include "gateway.portsOf" (dict "name" $name "backend" $backend "mode" $.Values.mode) | fromYaml).ports -}}
{{- $_ := set $found $name . -}}
{{- end -}}
{{- end -}}
{{- range $name, $port := .Values.services -}}{{- $_ := set $found $name (list (toString $port)) -}}{{- end -}}
{{- toYaml $found -}}
{{- end }}

{{- define "gateway.allPorts" -}}
{{- $all := list -}}
{{- range $name, $ports := include "gateway.ports" . | fromYaml -}}{{- $all = concat $all $ports -}}{{- end -}}
{{- $all | uniq | sortAlpha | toYaml -}}
{{- end }}

{{- define "gateway.config" -}}
{{- $gateway := merge (dict) (.Values.config.gateway | default dict) (dict "state_dir" "/var/lib/gateway") -}}
{{- $ops := merge (dict "listen" (printf "%s:%d" .Values.ops.address (int .Values.ops.port)) "admin_socket" "/run/gateway/admin.sock") (.Values.config.ops | default dict) -}}
{{- $config := dict "gateway" $gateway "ops" $ops "shutdown" .Values.shutdown "log" .Values.config.log "tunnels" .Values.config.tunnels "backends" .Values.config.backends -}}
{{- with .Values.config.audit -}}
{{- $log := .log | default "stdout" | toString -}}
{{- $written := has $log (list "stdout" "stderr") -}}
{{- range concat (list (dict "mountPath" "/var/lib/gateway")) ($.Values.extraVolumeMounts | default list) -}}
{{- if and (hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) $log) (not (contains "/../" $log)) -}}{{- $written = true -}}{{- end -}}
{{- end -}}
{{- if not $written -}}{{- fail (printf "config.audit.log: the pod cannot write %s: use stdout, or a file in /var/lib/gateway or in one of extraVolumeMounts" $log) -}}{{- end -}}
{{- $_ := set $config "audit" . -}}
{{- end -}}
{{- with .Values.config.fleet -}}{{- $_ := set $config "fleet" . -}}{{- end -}}
{{- with .Values.config.traces -}}{{- $_ := set $config "traces" . -}}{{- end -}}
{{- $config | toYaml -}}
{{- end }}

{{- /* Names of the Service for metrics and probes, and names from the values; a sidecar has no Service. */ -}}
{{- define "gateway.opsHosts" -}}
{{- $hosts := list -}}
{{- if ne .Values.mode "sidecar" -}}
{{- $service := printf "%s-ops" (include "gateway.fullname" .) -}}
{{- $hosts = list $service (printf "%s.%s" $service .Release.Namespace) (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.cluster.local" $service .Release.Namespace) -}}
{{- end -}}
{{- concat $hosts .Values.ops.hosts | join "," -}}
{{- end }}

{{- /* How Prometheus scrapes, with the credentials in the Secrets of `ops`. */ -}}
{{- define "gateway.scraping" -}}
{{- with .Values.ops.tlsSecret }}
scheme: https
tlsConfig:
  serverName: {{ include "gateway.fullname" $ }}-ops.{{ $.Release.Namespace }}.svc
  ca: {secret: {name: {{ . | quote }}, key: ca.crt}}
{{- end }}
{{- with .Values.ops.tokenSecret }}
authorization:
  credentials: {name: {{ . | quote }}, key: metrics-token}
{{- end }}
{{- end }}

{{- define "gateway.check" -}}
{{- $fullname := include "gateway.fullname" . -}}
{{- if and (ne .Values.mode "sidecar") (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname)) -}}{{- fail (printf "%q is not a valid name of a Service (lowercase letters, digits and -, starting with a letter): set fullnameOverride" $fullname) -}}{{- end -}}
{{- $both := add (include "gateway.milliseconds" .Values.shutdown.delay) (include "gateway.milliseconds" .Values.shutdown.drain) -}}
{{- if ge (int64 $both) (mul 1000 (int64 .Values.terminationGracePeriodSeconds)) -}}
{{- fail (printf "shutdown.delay plus shutdown.drain is %dms, which does not fit into terminationGracePeriodSeconds of %d s: the pod would be killed with open connections. Increase terminationGracePeriodSeconds" (int64 $both) (int64 .Values.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- if and .Values.vpn.enabled (ne .Values.mode "deployment") -}}{{- fail "vpn.enabled needs mode deployment: a sidecar would give privileges to an app's pod, and a daemonset would connect with one key from every node. Use a separate release for the VPN" -}}{{- end -}}
{{- if and .Values.vpn.enabled (gt (int .Values.replicas) 1) -}}{{- fail "vpn.enabled: several pods with one key would disconnect each other: set replicas to 1, or use one release per key" -}}{{- end -}}
{{- range $kind, $all := dict "tunnels" .Values.config.tunnels "backends" .Values.config.backends -}}
{{- range $name, $spec := $all -}}
{{- range regexFindAll "(?m)^ *(password|passphrase|key_password|private_key|preshared_key): .*$" (toYaml $spec) -1 -}}
{{- $key := regexFind "[a-z_]+" . -}}
{{- $value := regexReplaceAll "^ *[a-z_]+: " . "" | trimAll "'\"" -}}
{{- if not (or (eq $value "null") (regexMatch "^\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}$" $value)) -}}
{{- fail (printf "config.%s.%s: %s would be stored in a ConfigMap, which is not secret: use %s_file and `secrets`" $kind $name $key $key) -}}
{{- end -}}
{{- end -}}
{{- if regexMatch "//[^/@ ]*:[^/@ ]*@" (default "" $spec.url) -}}{{- fail (printf "config.%s.%s.url: its password would be stored in a ConfigMap, which is not secret: use user, password_file and `secrets`" $kind $name) -}}{{- end -}}
{{- $vias := list $spec.via -}}
{{- range $target := kindIs "slice" $spec.targets | ternary $spec.targets (list $spec.targets) -}}
{{- if kindIs "map" $target -}}{{- $vias = append $vias $target.via -}}{{- end -}}
{{- end -}}
{{- range $via := $vias -}}
{{- range without (kindIs "slice" $via | ternary $via (list $via)) nil "" -}}
{{- if not (hasKey ($.Values.config.tunnels | default dict) .) -}}{{- fail (printf "config.%s.%s.via: tunnel %q does not exist in config.tunnels" $kind $name .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* An address conflicts with itself, and a wildcard with every address on its port. */ -}}
{{- if regexMatch "^(127\\.|localhost$|\\[?::1\\]?$)" .Values.ops.address -}}{{- fail (printf "ops.address: the kubelet cannot reach %q, so the pod would never be ready: use 0.0.0.0 or [::]" .Values.ops.address) -}}{{- end -}}
{{- if hasKey (.Values.config.gateway | default dict) "state_dir" -}}{{- fail "config.gateway.state_dir: the chart uses /var/lib/gateway: remove this key" -}}{{- end -}}
{{- if eq (int .Values.ops.port) (int .Values.ops.probePort) -}}{{- fail "ops.probePort equals ops.port: choose another port" -}}{{- end -}}
{{- $taken := dict (printf "*:%d" (int .Values.ops.port)) "ops.port" (printf "*:%d" (int .Values.ops.probePort)) "ops.probePort" -}}
{{- $ports := dict -}}
{{- range $name, $backend := .Values.config.backends -}}
{{- $listen := $backend.listen | default list -}}
{{- range kindIs "slice" $listen | ternary $listen (list $listen) -}}
{{- if regexMatch ":[0-9]+$" . -}}
{{- $own := regexReplaceAll "^(0\\.0\\.0\\.0|\\[::\\])?:" . "*:" -}}
{{- $wild := regexReplaceAll "^.*:" . "*:" -}}
{{- $other := get $taken $own | default (get $taken $wild) -}}
{{- if and (not $other) (eq $own $wild) -}}{{- $other = get $ports $wild -}}{{- end -}}
{{- if and $other (ne $other (printf "config.backends.%s" $name)) -}}{{- fail (printf "config.backends.%s.listen: %s is already used by %s" $name . $other) -}}{{- end -}}
{{- $_ := set $taken $own (printf "config.backends.%s" $name) -}}
{{- if not (hasKey $ports $wild) -}}{{- $_ := set $ports $wild (printf "config.backends.%s" $name) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $_port := .Values.services -}}
{{- if and (not $.Values.existingConfigMap) (hasKey ($.Values.config.backends | default dict) $name) -}}{{- fail (printf "services.%s: the backend with this name already has a Service" $name) -}}{{- end -}}
{{- end -}}
{{- if eq .Values.mode "daemonset" -}}
{{- range include "gateway.allPorts" . | fromYamlArray -}}
{{- if lt (int .) 1024 -}}{{- fail (printf "config.backends: port %s: a pod in the node's network can only use ports from 1024 on" .) -}}{{- end -}}
{{- end -}}
{{- range $key := list "port" "probePort" -}}
{{- if lt (int (get $.Values.ops $key)) 1024 -}}{{- fail (printf "ops.%s: a pod in the node's network can only use ports from 1024 on" $key) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $paths := dict "/run/gateway" true "/run/gateway-ops" true "/run/gateway-ops-tls" true "/var/lib/gateway" true "/tmp" true -}}
{{- range .Values.secrets -}}
{{- if hasKey $paths .mountPath -}}{{- fail (printf "secrets: %s is already used as a mount path" .mountPath) -}}{{- end -}}
{{- $_ := set $paths .mountPath true -}}
{{- end -}}
{{- range $name, $_cidrs := .Values.networkPolicy.cidrs -}}
{{- if not (or (hasKey ($.Values.config.tunnels | default dict) $name) (hasKey ($.Values.config.backends | default dict) $name)) -}}{{- fail (printf "networkPolicy.cidrs.%s: no tunnel or backend has this name" $name) -}}{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (eq .Values.mode "deployment") (or .Values.serviceMonitor.enabled .Values.podMonitor.enabled) (not .Values.networkPolicy.metricsFrom) -}}{{- fail "networkPolicy.metricsFrom: only pods of the release's namespace could reach the metrics: add Prometheus, for example [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" -}}{{- end -}}
{{- $names := dict -}}
{{- if eq .Values.mode "deployment" -}}
{{- range $name, $_ports := include "gateway.ports" . | fromYaml -}}
{{- $service := include "gateway.serviceName" $name -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$" $service) -}}{{- fail (printf "config.backends.%s: %q is not a valid name of a Service (letters, digits and -, starting with a letter): rename the backend" $name $service) -}}{{- end -}}
{{- if eq $service (printf "%s-ops" $fullname) -}}{{- fail (printf "config.backends.%s: its Service would have the same name as the Service for metrics: rename the backend" $name) -}}{{- end -}}
{{- if hasKey $names $service -}}{{- fail (printf "config.backends.%s and config.backends.%s would have the same Service: rename one" $name (get $names $service)) -}}{{- end -}}
{{- $_ := set $names $service $name -}}
{{- end -}}
{{- end -}}
{{- range $name, $tunnel := .Values.config.tunnels -}}
{{- if has $tunnel.kind ($.Files.Get "kinds.json" | fromJson).tunnelsWithCapabilities -}}
{{- if not $.Values.vpn.enabled -}}{{- fail (printf "config.tunnels.%s: a VPN needs vpn.enabled" $name) -}}{{- end -}}
{{- if ne (default "namespace" $tunnel.isolation) "device" -}}{{- fail (printf "config.tunnels.%s: set `isolation: device`: `namespace` needs CAP_SYS_ADMIN, which the pod does not have" $name) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.restrictEgress .Values.existingConfigMap (not .Values.networkPolicy.egress) -}}{{- fail "networkPolicy.egress: the chart cannot read existingConfigMap: add the rules that its configuration needs" -}}{{- end -}}
{{- if and (eq .Values.mode "sidecar") (or .Values.serviceMonitor.enabled .Values.podMonitor.enabled) -}}{{- fail "serviceMonitor and podMonitor select pods of this chart: with mode sidecar, add them to the app's chart" -}}{{- end -}}
{{- range .Values.secrets -}}
{{- if or (eq .mountPath "/etc/gateway") (hasPrefix "/etc/gateway/" .mountPath) -}}{{- fail (printf "secrets: %s is inside the read-only mount of the ConfigMap: use /run/secrets/…" .mountPath) -}}{{- end -}}
{{- end -}}
{{- if and .Values.service.externalTrafficPolicy (eq .Values.service.type "ClusterIP") -}}{{- fail "service.externalTrafficPolicy is only for the service types NodePort and LoadBalancer" -}}{{- end -}}
{{- range $label := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" -}}
{{- if hasKey ($.Values.podLabels | default dict) $label -}}{{- fail (printf "podLabels: the chart sets %s itself: remove it" $label) -}}{{- end -}}
{{- end -}}
{{- if not (or .Values.config.backends .Values.existingConfigMap) -}}{{- fail "config.backends is empty: add at least one backend, or set existingConfigMap" -}}{{- end -}}
{{- end }}

{{- /* In an app's chart, a ConfigMap with the release's name probably belongs to the app. */ -}}
{{- define "gateway.configMap" -}}
{{- $own := eq .Values.mode "sidecar" | ternary (printf "%s-gateway" (include "gateway.fullname" .)) (include "gateway.fullname" .) -}}
{{- default $own .Values.existingConfigMap -}}
{{- end }}

{{- /*
The container, also as a native sidecar in your own chart: add this chart as a dependency named gateway, and add
  initContainers:
    {{- include "gateway.sidecar" (dict "root" .Subcharts.gateway) | nindent 4 }}
  volumes:
    {{- include "gateway.volumes" .Subcharts.gateway | nindent 4 }}
  securityContext: {fsGroup: 10001}      # to read the Secrets
*/ -}}
{{- define "gateway.sidecar" -}}
{{- include "gateway.container" (dict "root" .root "sidecar" true) -}}
{{- end }}

{{- define "gateway.container" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
- name: gateway
  image: {{ include "gateway.image" $root | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  {{- if .sidecar }}
  restartPolicy: Always
  {{- end }}
  args:
    - run
    - --config=/etc/gateway/gateway.yaml
    - --ops-listen={{ $values.ops.address }}:{{ $values.ops.port }}
    - --ops-probe-listen={{ $values.ops.address }}:{{ $values.ops.probePort }}
    {{- with include "gateway.opsHosts" $root }}
    - --ops-hosts={{ . }}
    {{- end }}
    {{- if $values.ops.tokenSecret }}
    - --ops-token-file=/run/gateway-ops/token
    - --ops-metrics-token-file=/run/gateway-ops/metrics-token
    {{- end }}
    {{- if $values.ops.tlsSecret }}
    - --ops-tls-cert-file=/run/gateway-ops-tls/tls.crt
    - --ops-tls-key-file=/run/gateway-ops-tls/tls.key
    {{- end }}
    - --ops-admin-socket=/run/gateway/admin.sock
    - --state-dir=/var/lib/gateway
    - --shutdown-delay={{ $values.shutdown.delay }}
    - --shutdown-drain={{ $values.shutdown.drain }}
  {{- with $values.extraEnv }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - {name: ops, containerPort: {{ $values.ops.port }}, protocol: TCP}
    - {name: probes, containerPort: {{ $values.ops.probePort }}, protocol: TCP}
    {{- if not .sidecar }}
    {{- range include "gateway.allPorts" $root | fromYamlArray }}
    {{- if not (has (int .) (list (int $values.ops.port) (int $values.ops.probePort))) }}
    - {containerPort: {{ . }}, protocol: TCP}
    {{- end }}
    {{- end }}
    {{- end }}
  startupProbe:
    httpGet: {path: /startupz, port: probes}
    periodSeconds: 1
    failureThreshold: 120
  livenessProbe:
    httpGet: {path: /livez, port: probes}
    periodSeconds: 10
    timeoutSeconds: 3
  readinessProbe:
    httpGet: {path: /readyz, port: probes}
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: 1
  {{- with $values.resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- if $values.vpn.enabled }}
    runAsUser: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    {{- /* NET_ADMIN for the device; the others to run OpenVPN as a separate user. */}}
    capabilities: {drop: [ALL], add: [NET_ADMIN, CHOWN, KILL, SETGID, SETUID]}
    {{- else }}
    runAsUser: 10001
    runAsGroup: 10001
    runAsNonRoot: true
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    {{- end }}
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
    - {name: gateway-config, mountPath: /etc/gateway, readOnly: true}
    - {name: gateway-run, mountPath: /run/gateway}
    - {name: gateway-state, mountPath: /var/lib/gateway}
    - {name: gateway-tmp, mountPath: /tmp}
    {{- range $index, $each := $values.secrets }}
    - {name: gateway-secret-{{ $index }}, mountPath: {{ $each.mountPath | quote }}, readOnly: true}
    {{- end }}
    {{- if $values.ops.tokenSecret }}
    - {name: gateway-ops, mountPath: /run/gateway-ops, readOnly: true}
    {{- end }}
    {{- if $values.ops.tlsSecret }}
    - {name: gateway-ops-tls, mountPath: /run/gateway-ops-tls, readOnly: true}
    {{- end }}
    {{- if $values.vpn.enabled }}
    - {name: gateway-tun, mountPath: /dev/net/tun}
    - {name: gateway-wireguard, mountPath: /run/wireguard}
    {{- end }}
    {{- with $values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "gateway.volumes" -}}
- name: gateway-config
  configMap: {name: {{ include "gateway.configMap" . }}}
- name: gateway-run
  emptyDir: {medium: Memory, sizeLimit: 16Mi}
- name: gateway-state
  emptyDir: {sizeLimit: 64Mi}
- name: gateway-tmp
  emptyDir: {sizeLimit: 64Mi}
{{- range $index, $each := .Values.secrets }}
- name: gateway-secret-{{ $index }}
  secret:
    secretName: {{ $each.name | quote }}
    defaultMode: {{ if $.Values.vpn.enabled }}0400{{ else }}0440{{ end }}
    {{- with $each.items }}
    items: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- with .Values.ops.tokenSecret }}
- name: gateway-ops
  secret:
    secretName: {{ . | quote }}
    defaultMode: {{ if $.Values.vpn.enabled }}0400{{ else }}0440{{ end }}
    items:
      - {key: token, path: token}
      - {key: metrics-token, path: metrics-token}
{{- end }}
{{- with .Values.ops.tlsSecret }}
- name: gateway-ops-tls
  secret:
    secretName: {{ . | quote }}
    defaultMode: {{ if $.Values.vpn.enabled }}0400{{ else }}0440{{ end }}
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- if .Values.vpn.enabled }}
- name: gateway-tun
  hostPath: {path: /dev/net/tun, type: CharDevice}
- name: gateway-wireguard
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Scheduling constraints of the pods. */ -}}
{{- define "gateway.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gateway.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ . | quote }}}
  {{- end }}
{{- end }}
{{- end }}

{{- /* For an annotation of the pods, to roll them out when the configuration changes. */ -}}
{{- define "gateway.checksum" -}}
{{- include "gateway.config" . | sha256sum -}}
{{- end }}

{{- define "gateway.pod" -}}
metadata:
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.podAnnotations (not .Values.existingConfigMap) }}
  annotations:
    {{- if not .Values.existingConfigMap }}
    checksum/config: {{ include "gateway.checksum" . }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "gateway.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- if eq .Values.mode "daemonset" }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  securityContext:
    {{- if not .Values.vpn.enabled }}
    runAsNonRoot: true
    fsGroup: 10001
    {{- end }}
    seccompProfile: {type: RuntimeDefault}
    {{- $sysctls := list -}}
    {{- $low := false -}}
    {{- range concat (include "gateway.allPorts" . | fromYamlArray) (list .Values.ops.port .Values.ops.probePort) -}}{{- if lt (int .) 1024 -}}{{- $low = true -}}{{- end -}}{{- end -}}
    {{- if and $low (ne .Values.mode "daemonset") -}}{{- $sysctls = append $sysctls (dict "name" "net.ipv4.ip_unprivileged_port_start" "value" "0") -}}{{- end -}}
    {{- if .Values.vpn.enabled -}}{{- $sysctls = append $sysctls (dict "name" "net.ipv4.ping_group_range" "value" "0 2147483647") -}}{{- end -}}
    {{- with $sysctls }}
    sysctls: {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- include "gateway.pullSecrets" . | nindent 2 }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  containers:
    {{- include "gateway.container" (dict "root" .) | nindent 4 }}
  volumes:
    {{- include "gateway.volumes" . | nindent 4 }}
  {{- include "gateway.placement" . | nindent 2 }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.mode "deployment" }}
  topologySpreadConstraints:
    {{- with .Values.topologySpreadConstraints }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "gateway.selector" . | nindent 10 }}
    {{- end }}
  {{- end }}
{{- end }}
