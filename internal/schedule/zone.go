package schedule

import (
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // for machines and images that have no zones of their own
)

// fold makes the keys lower-case.
func fold(names map[string]string) map[string]string {
	folded := make(map[string]string, len(names))
	for name, zone := range names {
		folded[strings.ToLower(name)] = zone
	}
	return folded
}

// zones are those that were read already: a zone is asked for whenever an instance's next slot is.
var zones sync.Map

// Zone is the time zone of that name, as policies write it: an IANA name (Europe/Berlin), a Windows name in any letter case
// (W. Europe Standard Time), or nothing for UTC.
func Zone(name string) (*time.Location, error) {
	name = strings.TrimSpace(name)
	if name == "" || strings.EqualFold(name, "UTC") {
		return time.UTC, nil
	}
	if zone, ok := zones.Load(name); ok {
		return zone.(*time.Location), nil
	}
	iana, ok := windowsZones[strings.ToLower(name)]
	if !ok {
		iana = name
	}
	zone, err := time.LoadLocation(iana)
	if err != nil || zone == time.Local {
		return nil, fmt.Errorf("time zone %q is not known: it is neither an IANA name such as Europe/Berlin, nor a Windows name such as "+
			"W. Europe Standard Time, nor UTC", name)
	}
	zones.Store(name, zone)
	return zone, nil
}
