package schedule

// WindowsZones are the names that Zone takes beside IANA's, in lower case.
var WindowsZones = windowsZones
