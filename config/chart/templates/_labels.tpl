{{- define "labels" -}}
app.kubernetes.io/name: dataprotection-microsoft-controller
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/part-of: cairn
{{- end }}
